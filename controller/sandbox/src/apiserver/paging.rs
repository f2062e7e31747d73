//! `limit` and `continue`: long lists in pages.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks>. The real server answers
//! all pages from one snapshot; here each page is of its own moment and keeps the version of the first, so that a watch from that
//! version tells whatever changed in between.

use std::sync::Arc;

use serde_json::Value;

use super::status::Refusal;
use super::store::name_of;

/// One page of a list.
pub struct Page {
    /// Of the first page.
    pub version: u64,
    pub objects: Vec<Arc<Value>>,
    /// What to send as `continue` for the next page, and how many objects are left; `None` for the last one.
    pub next: Option<(String, usize)>,
}

impl Page {
    /// The page of `objects`, which are in the order of their namespaces and names, that `limit` and `token` ask for.
    pub fn of(version: u64, objects: Vec<Arc<Value>>, limit: &str, token: &str) -> Result<Self, Refusal> {
        let limit = match limit {
            "" => 0,
            text => text.parse().map_err(|_| Refusal::bad_request(format!("invalid limit {text:?}")))?,
        };
        let (version, mut objects) = match token {
            "" => (version, objects),
            token => {
                let (version, after) = read(token)?;
                (version, objects.into_iter().filter(|object| name_of(object) > after).collect())
            }
        };
        if limit == 0 || objects.len() <= limit {
            return Ok(Self { version, objects, next: None });
        }
        let left = objects.len() - limit;
        objects.truncate(limit);
        let next = objects.last().map(|last| {
            let (namespace, name) = name_of(last);
            (format!("{version}/{namespace}/{name}"), left)
        });
        Ok(Self { version, objects, next })
    }
}

/// The version of the first page, and the last object that was told.
fn read(token: &str) -> Result<(u64, (String, String)), Refusal> {
    let mut parts = token.splitn(3, '/');
    let version = parts.next().and_then(|version| version.parse().ok());
    match (version, parts.next(), parts.next()) {
        (Some(version), Some(namespace), Some(name)) => Ok((version, (namespace.to_owned(), name.to_owned()))),
        _ => Err(Refusal::bad_request("continue key is not valid")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects(names: &[&str]) -> Vec<Arc<Value>> {
        names.iter().map(|name| Arc::new(json!({"metadata": {"namespace": "shop", "name": name}}))).collect()
    }

    fn names(page: &Page) -> Vec<String> {
        page.objects.iter().map(|object| name_of(object).1).collect()
    }

    #[test]
    fn pages_follow_each_other_under_the_version_of_the_first() {
        let first = Page::of(7, objects(&["a", "b", "c", "d", "e"]), "2", "").unwrap();
        let (token, left) = first.next.clone().unwrap();
        assert_eq!((names(&first), left), (vec!["a".to_owned(), "b".to_owned()], 3));
        // Meanwhile one was deleted and one made; the watch tells of both.
        let second = Page::of(9, objects(&["a", "aa", "b", "d", "e"]), "2", &token).unwrap();
        assert_eq!((names(&second), second.version, second.next), (vec!["d".to_owned(), "e".to_owned()], 7, None));
    }

    #[test]
    fn without_a_limit_a_list_comes_whole_and_a_strange_token_is_refused() {
        assert_eq!(Page::of(1, objects(&["a", "b"]), "", "").unwrap().objects.len(), 2);
        assert_eq!(Page::of(1, objects(&["a", "b"]), "0", "").unwrap().objects.len(), 2);
        assert!(Page::of(1, Vec::new(), "2", "nonsense").is_err());
        assert!(Page::of(1, Vec::new(), "many", "").is_err());
    }
}
