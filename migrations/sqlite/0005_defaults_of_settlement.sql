-- The pair of a migration that only MySQL needs: here columns are set by UPDATE.
SELECT 1;
