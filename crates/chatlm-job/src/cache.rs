//! Where this program keeps what it can make again.

use std::path::{Path, PathBuf};

/// `$CHATLM_CACHE/NAME`, else `chatlm/NAME` in the user's cache.
pub fn cache_folder(name: &str) -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let users = || {
        let cache = named("XDG_CACHE_HOME").or_else(|| named("LOCALAPPDATA"));
        let cache = cache.map(PathBuf::from);
        cache
            .or_else(|| named("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("chatlm")
    };
    let base = named("CHATLM_CACHE").map_or_else(users, PathBuf::from);
    base.join(name)
}
