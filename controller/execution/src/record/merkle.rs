//! The Merkle tree of RFC 6962, section 2.1: hashes, proofs, and a frontier that grows without the old leaves.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 hash; hex in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

/// Hash of a leaf: the prefix tells leaves from nodes, so that neither can be passed off as the other.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0x00]).chain_update(leaf).finalize().into())
}

/// Hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([0x01]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// Root of the tree over these leaf hashes; the hash of nothing for an empty tree.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// Proof that the leaf at `index` is in the tree, from the leaf upwards; `None` when there is no such leaf.
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut proof, sibling) = match index < at {
        true => (inclusion_proof(left, index)?, root(right)),
        false => (inclusion_proof(right, index - at)?, root(left)),
    };
    proof.push(sibling);
    Some(proof)
}

/// Whether the proof shows the leaf at `index` of a tree of `size` with this root (RFC 9162, 2.1.3.2).
pub fn verifies_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Proof that the tree of the first `earlier` leaves is a beginning of the whole; `None` when it is longer, or empty.
pub fn consistency_proof(leaves: &[Hash], earlier: usize) -> Option<Vec<Hash>> {
    if earlier == 0 || earlier > leaves.len() {
        return None;
    }
    Some(sub_proof(leaves, earlier, true))
}

fn sub_proof(leaves: &[Hash], earlier: usize, whole: bool) -> Vec<Hash> {
    if earlier == leaves.len() {
        return if whole { Vec::new() } else { vec![root(leaves)] };
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut proof, sibling) = match earlier <= at {
        true => (sub_proof(left, earlier, whole), root(right)),
        false => (sub_proof(right, earlier - at, false), root(left)),
    };
    proof.push(sibling);
    proof
}

/// Whether the proof shows that one tree is a beginning of the other (RFC 9162, 2.1.4.2).
pub fn verifies_consistency(earlier: u64, later: u64, proof: &[Hash], earlier_root: &Hash, later_root: &Hash) -> bool {
    if earlier == later {
        return proof.is_empty() && earlier_root == later_root;
    }
    if earlier == 0 || earlier > later {
        return false;
    }
    let mut path = proof.to_vec();
    if earlier.is_power_of_two() {
        path.insert(0, *earlier_root);
    }
    let Some((first, rest)) = path.split_first() else { return false };
    let (mut node, mut last) = (earlier - 1, later - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old == *earlier_root && new == *later_root
}

/// The largest power of two below `n`, for `n` > 1.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// Roots of the perfect subtrees that make up a tree, largest first: enough to grow it and to tell its root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the number of subtrees fits the size; one read from a store may lie.
    pub fn is_sound(&self) -> bool {
        u32::try_from(self.subtrees.len()) == Ok(self.size.count_ones())
    }

    /// The frontier with one more leaf.
    #[must_use]
    pub fn with(&self, leaf: Hash) -> Self {
        let (mut subtrees, mut merged, mut below) = (self.subtrees.clone(), leaf, self.size);
        while below & 1 == 1 {
            let Some(left) = subtrees.pop() else { break };
            merged = node_hash(&left, &merged);
            below >>= 1;
        }
        subtrees.push(merged);
        Self { size: self.size.saturating_add(1), subtrees }
    }

    pub fn root(&self) -> Hash {
        let folded = self.subtrees.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        folded.unwrap_or_else(|| root(&[]))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Hash({self})")
    }
}

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| "a hash is 64 hex digits")?;
        Ok(Self(bytes))
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl JsonSchema for Hash {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hash".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves and roots of the reference tests of certificate-transparency, the first log of RFC 6962.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves() -> Vec<Hash> {
        LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect()
    }

    #[test]
    fn the_published_roots_are_reproduced_by_tree_and_frontier() {
        let leaves = leaves();
        let mut frontier = Frontier::default();
        for (size, wanted) in ROOTS.iter().enumerate() {
            assert_eq!(root(&leaves[..size]).to_string(), *wanted);
            assert_eq!(frontier.root().to_string(), *wanted);
            assert!(frontier.is_sound());
            if let Some(leaf) = leaves.get(size) {
                frontier = frontier.with(*leaf);
            }
        }
    }

    #[test]
    fn every_leaf_of_every_size_is_proven_and_no_other() {
        let leaves: Vec<Hash> = (0..33_u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        for size in 1..=leaves.len() {
            let whole = root(&leaves[..size]);
            for index in 0..size {
                let proof = inclusion_proof(&leaves[..size], index).unwrap();
                let (i, n) = (index as u64, size as u64);
                assert!(verifies_inclusion(&leaves[index], i, n, &proof, &whole));
                assert!(!verifies_inclusion(&leaf_hash(b"other"), i, n, &proof, &whole));
                assert!(!verifies_inclusion(&leaves[index], n, n, &proof, &whole));
                let elsewhere = (i + 1) % n;
                assert!(n == 1 || !verifies_inclusion(&leaves[index], elsewhere, n, &proof, &whole));
            }
        }
    }

    #[test]
    fn every_beginning_is_proven_and_a_fork_is_not() {
        let leaves: Vec<Hash> = (0..33_u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        for later in 1..=leaves.len() {
            for earlier in 1..=later {
                let proof = consistency_proof(&leaves[..later], earlier).unwrap();
                let (old, new) = (root(&leaves[..earlier]), root(&leaves[..later]));
                let (m, n) = (earlier as u64, later as u64);
                assert!(verifies_consistency(m, n, &proof, &old, &new), "{earlier} of {later}");
                let mut forked = leaves[..later].to_vec();
                forked[0] = leaf_hash(b"other");
                assert!(!verifies_consistency(m, n, &proof, &root(&forked[..earlier]), &new));
                assert!(!verifies_consistency(m, n, &proof, &old, &root(&forked)));
            }
        }
        assert_eq!(consistency_proof(&leaves, 34), None);
    }
}
