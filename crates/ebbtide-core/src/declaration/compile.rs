//! From the declaration to what a boot reads.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Declaration;
use crate::compiled::{self, Compiled, ContainerRef, Root, Store, StoreName};

/// Why a declaration that has no errors cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Only `[keep]` was declared.
    #[error("the declaration has no [root]")]
    NoRoot,
    /// No container was made yet.
    #[error("[root] has no uuid: it is not tied to a container yet")]
    NoUuid,
    /// The container at hand is another one than was declared.
    #[error("[root] is tied to the container {declared}, but this is {found}")]
    Container {
        /// What the configuration pins.
        declared: Uuid,
        /// What the marker says.
        found: Uuid,
    },
    /// A store was not looked at.
    #[error("the UUID of the store `{0}` is not known")]
    Store(StoreName),
}

impl CompileError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoRoot => "add [root] and [store.state], or run `ebbtide init`",
            Self::NoUuid => "run `ebbtide init`",
            Self::Container { .. } => "if this disk is meant, write its UUID under [root]",
            Self::Store(_) => "is its device there, and was it set up by `ebbtide init`?",
        }
    }
}

impl Declaration {
    /// Compiles for one container, given the UUIDs in the markers of the stores.
    ///
    /// The same declaration and UUIDs give the same bytes.
    pub fn compile(
        &self,
        container: Uuid,
        stores: &BTreeMap<StoreName, Uuid>,
    ) -> Result<Compiled, CompileError> {
        let root = self.root.as_ref().ok_or(CompileError::NoRoot)?;
        let declared = root.uuid.ok_or(CompileError::NoUuid)?;
        if declared != container {
            return Err(CompileError::Container { declared, found: container });
        }
        let stores = self
            .stores
            .iter()
            .map(|(name, store)| {
                let uuid = *stores.get(name).ok_or_else(|| CompileError::Store(name.clone()))?;
                let store = Store {
                    device: store.device.clone(),
                    subvolume: store.subvolume.clone(),
                    directory: store.directory.clone(),
                    class: store.class,
                    options: store.options.clone(),
                    trash: store.trash,
                    expiry: store.expiry,
                    uuid,
                };
                Ok((name.clone(), store))
            })
            .collect::<Result<_, CompileError>>()?;
        Ok(Compiled {
            version: compiled::VERSION,
            root: Root {
                backend: root.backend,
                device: root.device.clone(),
                container: ContainerRef { path: root.container.clone(), uuid: container },
                options: root.options.clone(),
                size: root.size,
                archive: root.archive,
                writable: root.writable,
                tmpfs: root.tmpfs.clone(),
                mounts: root.mounts.clone(),
                audit: root.audit,
                require_login: root.require_login,
                keep_boots: root.keep_boots,
            },
            stores,
            entries: self.entries.clone(),
        })
    }
}
