"""Programs that people use to call models, and model servers, each run against Keyportal."""
