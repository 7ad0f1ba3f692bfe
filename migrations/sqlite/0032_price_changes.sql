-- The pair of a migration that only MySQL needs: 0021 made the table here, and a transaction that writes excludes others.
SELECT 1;
