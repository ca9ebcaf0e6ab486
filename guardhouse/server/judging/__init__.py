"""Guardhouse's own routes and those of its neighbours that ask for verdicts rather than texts."""
