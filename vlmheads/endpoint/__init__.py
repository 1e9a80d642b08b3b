"""Models behind an OpenAI-compatible server, in place of one that is loaded here."""
