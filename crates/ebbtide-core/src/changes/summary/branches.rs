//! All changes as the tree of directories that they lie in.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use super::{Changes, Group, Node, Order, Piece, pieces};

/// One line of a tree: a directory with what changed in it, or a single path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// How many directories above it are told: 0 at the top.
    pub depth: usize,
    /// Its path from the one above it.
    pub label: PathBuf,
    /// What changed, with all that lies below it.
    pub group: Group,
    /// Whether this is what lies in `label` and is only counted.
    pub counted: bool,
}

impl Changes {
    /// Visits each directory and each path that is remembered, a directory before what is in it. What
    /// lies beside each other comes in this order.
    pub fn branches(&self, order: Order, visit: &mut dyn FnMut(Branch)) {
        branch(Path::new("/"), &self.top, 0, order, visit);
    }
}

fn branch(path: &Path, node: &Node, depth: usize, order: Order, visit: &mut dyn FnMut(Branch)) {
    let mut inside = pieces(path, node);
    inside.sort_by_cached_key(|piece| (Reverse(piece.tally.weight(order)), piece.path.clone()));
    for piece in inside {
        let itself = piece.node.is_none() && piece.path == path;
        // What became of the directory itself stands on its own line already.
        if itself && !piece.own.is_empty() && depth > 0 {
            continue;
        }
        let label = piece.path.strip_prefix(path).unwrap_or(&piece.path).to_owned();
        let (inner, below) = (piece.path.clone(), piece.node);
        let counted = itself && piece.own.is_empty();
        visit(Branch { depth, label, group: told(piece), counted });
        if let Some(below) = below {
            if below.is_leaf() {
                continue;
            }
            branch(&inner, below, depth + 1, order, visit);
        }
    }
}

/// A directory is told with its own changes, where it has some.
fn told(mut piece: Piece<'_>) -> Group {
    if let Some(node) = piece.node.filter(|node| !node.is_leaf()) {
        let own: Vec<_> = node.own().collect();
        if let [renamed] = own.as_slice()
            && matches!(renamed.what, super::What::Renamed { .. })
        {
            piece.own = own;
        }
    }
    piece.told()
}
