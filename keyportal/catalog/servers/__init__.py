"""What is asked of a model server outside calls: its list of models, and a trial."""
