"""`avflow demo`: a trained model of the package, and questions that it has not seen."""
