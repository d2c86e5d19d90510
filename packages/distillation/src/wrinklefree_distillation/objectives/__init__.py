"""Objectives of stage 3, one file each. Further ones (`tcs_distill`, `dlm`) are further files here."""
