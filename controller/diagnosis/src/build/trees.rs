//! Boosted trees: a score as the sum of many small decisions, learned elsewhere and checked in as tables.

/// One decision tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Feature, bound, where to go when the feature is at most the bound, where to go when it is above.
    ///
    /// A negative place is the leaf with that number, inverted; places grow along every path, so each walk ends.
    pub splits: &'static [(u8, f32, i8, i8)],
    /// What the tree adds to the score.
    pub leaves: &'static [f32],
}

impl Tree {
    fn leaf(&self, row: &[f32]) -> f32 {
        let mut at = 0i8;
        for _ in 0..=self.splits.len() {
            let Ok(place) = usize::try_from(at) else { break };
            let Some((feature, bound, below, above)) = self.splits.get(place) else { break };
            at = if row[usize::from(*feature)] <= *bound { *below } else { *above };
        }
        self.leaves.get(usize::try_from(!at).unwrap_or(0)).copied().unwrap_or(0.0)
    }
}

/// The logarithm of the odds that a line belongs to the failure.
pub fn score(trees: &[Tree], row: &[f32]) -> f32 {
    trees.iter().map(|tree| tree.leaf(row)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::features::{COMPARED, OWN};
    use crate::build::{table_alone, table_compared};

    #[test]
    fn a_tree_is_walked_to_its_leaf() {
        let tree = Tree { splits: &[(0, 0.5, -1, 1), (1, 2.0, -2, -3)], leaves: &[0.1, 0.2, 0.4] };
        assert_eq!(score(&[tree], &[0.0, 9.0]), 0.1);
        assert_eq!(score(&[tree], &[1.0, 2.0]), 0.2);
        assert_eq!(score(&[tree, tree], &[1.0, 3.0]), 0.8);
    }

    #[test]
    fn the_tables_fit_the_features() {
        for (trees, features) in [(table_alone::TREES, OWN), (table_compared::TREES, OWN + COMPARED)] {
            assert!(!trees.is_empty());
            for tree in trees {
                assert_eq!(tree.splits.len() + 1, tree.leaves.len());
                for (place, (feature, _, below, above)) in (0i8..).zip(tree.splits) {
                    assert!(usize::from(*feature) < features);
                    for next in [*below, *above] {
                        let leaf = next < 0 && ((!next) as usize) < tree.leaves.len();
                        assert!(leaf || (next > place && (next as usize) < tree.splits.len()), "{tree:?}");
                    }
                }
            }
        }
    }
}
