"""Retrain on new data, compare with the champion, promote what is better, and clean up."""
