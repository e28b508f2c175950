"""Operations on a store: verify, garbage collection, rebuild, migrate, report."""
