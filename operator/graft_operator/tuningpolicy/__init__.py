"""TuningPolicy: read the criteria -> decide -> record the launch -> create the FineTuneJob."""
