//! Every kind of evidence has its page in `docs/evidence`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn names(folder: &Path, ending: &str) -> BTreeSet<String> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    files.filter_map(|file| file.strip_suffix(ending).map(str::to_owned)).filter(|name| name != "mod").collect()
}

#[test]
fn every_kind_of_evidence_has_a_page_and_every_page_its_evidence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = root.join("../../docs/evidence");
    let mut kinds = names(&root.join("src/extract"), ".rs");
    // Weighed between hypotheses, not extracted for one.
    kinds.insert("order".to_owned());
    assert_eq!(names(&pages, ".md"), kinds);
    for name in names(&pages, ".md") {
        let page = fs::read_to_string(pages.join(format!("{name}.md"))).unwrap();
        for part in ["**Looks at.**", "**Effect size.**", "**Noise floor.**", "**Source.**", "**Example.**"] {
            assert!(page.contains(part), "{name}.md does not say: {part}");
        }
    }
}
