"""FineTuneJob: observe -> decide -> children -> reconcile, and the reports of its pods."""
