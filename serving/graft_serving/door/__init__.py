"""The one port of a server pod: an nginx that lets the gateway's token reach vLLM's inference routes, and nothing reach the rest."""
