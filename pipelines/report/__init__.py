"""`idxtrain report`: a run's result in short, runs side by side as a page, and Markdown for a pull request."""
