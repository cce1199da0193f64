"""Stage two: a vision-language model that predicts, from one frame, the latent codes of what happens next."""
