-- The pair of a migration that only MySQL needs: 0001 made these tables so.
SELECT 1;
