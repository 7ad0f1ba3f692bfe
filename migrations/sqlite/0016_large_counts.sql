-- The pair of a migration that only MySQL needs: an INTEGER has 64 bits.
SELECT 1;
