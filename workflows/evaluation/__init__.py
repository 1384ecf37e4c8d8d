"""What an evaluation is made of: models, data, and the measures of each kind of model."""
