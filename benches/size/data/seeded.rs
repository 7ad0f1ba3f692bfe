//! Pseudorandom numbers from a seed.

/// SplitMix64. Its numbers are good enough to spread data. Source: Steele, Lea, Flood, "Fast
/// splittable pseudorandom number generators", 2014.
pub struct Seeded(u64);

impl Seeded {
    /// The numbers of one item.
    pub fn of(seed: u64, item: u64) -> Self {
        let mut seeded = Self(seed ^ item.wrapping_mul(0xd134_2543_de82_ef95));
        seeded.next();
        seeded
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must be above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
