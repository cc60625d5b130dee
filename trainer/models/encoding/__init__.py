"""Encoding models: EEG predicted from image embeddings, fitted in closed form from sums over the training rows."""
