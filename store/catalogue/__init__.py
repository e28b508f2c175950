"""The write side of the catalogue; SQLAlchemy lives here."""
