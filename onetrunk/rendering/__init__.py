"""What people read: tables, pages and model cards."""
