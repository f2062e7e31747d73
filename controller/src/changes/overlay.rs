//! Whom a change of Kustomize's own settings reaches: images, replicas, patches and generated configuration name their objects
//! themselves, everything else reaches all.
//!
//! <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/>

use std::collections::BTreeSet;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::ChangeKind;
use amend_policies::configuration::read_by;
use regex::Regex;
use serde_json::Value;

use super::{Touched, kind_named};

/// Settings that bring objects in, which have files of their own, or change nothing that runs.
const WITHOUT_EFFECT: [&str; 9] =
    ["apiVersion", "kind", "metadata", "resources", "bases", "components", "buildMetadata", "sortOptions", "openapi"];

const PATCHES: [&str; 3] = ["patches", "patchesStrategicMerge", "patchesJson6902"];

const GENERATORS: [(&str, EntityKind); 2] =
    [("configMapGenerator", EntityKind::ConfigMap), ("secretGenerator", EntityKind::Secret)];

/// Length of the hash that Kustomize puts behind the name of what it generates.
const HASH: usize = 10;

/// What a `kustomization.yaml` says; null when it says nothing.
///
/// # Errors
/// A clause that names the file: what cannot be read is not without effect.
pub fn settings(path: &str, text: &str) -> Result<Value, String> {
    let says = |line: &str| !matches!(line.trim(), "" | "---") && !line.trim_start().starts_with('#');
    if !text.lines().any(says) {
        return Ok(Value::Null);
    }
    let read = serde_saphyr::from_str::<Value>(text).ok().filter(|settings| settings.is_object());
    read.ok_or_else(|| format!("{path} cannot be read as a kustomization, so whom it reaches is not known"))
}

/// Live objects that a change of a `kustomization.yaml` reaches.
pub fn touched(before: &Value, after: &Value, own: &[&Value]) -> Vec<Touched> {
    let named = Named { own, affixes: [before, after].map(affixes) };
    let mut found = images(&before["images"], &after["images"], own);
    for entry in changed(&before["replicas"], &after["replicas"]) {
        found.extend(named.by_name(entry["name"].as_str().unwrap_or_default(), ChangeKind::Scale));
    }
    for entry in PATCHES.iter().flat_map(|key| changed(&before[*key], &after[*key])) {
        found.extend(named.patched(entry));
    }
    for (key, kind) in GENERATORS {
        for entry in changed(&before[key], &after[key]) {
            found.extend(named.reading(kind, entry["name"].as_str().unwrap_or_default()));
        }
    }
    let keys =
        |settings: &Value| settings.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let told = |key: &str| {
        ["images", "replicas"].contains(&key)
            || PATCHES.contains(&key)
            || GENERATORS.iter().any(|(one, _)| *one == key)
            || WITHOUT_EFFECT.contains(&key)
    };
    if [keys(before), keys(after)].concat().iter().any(|key| !told(key) && before[key] != after[key]) {
        found.extend(named.all());
    }
    each_once(found)
}

/// Live objects that a file reaches which is no object itself: the file of a patch, or one that a generator packs.
///
/// `path` is the file's, from the folder of the settings on.
pub fn touched_by_input(settings: &Value, path: &str, own: &[&Value]) -> Vec<Touched> {
    let named = Named { own, affixes: [affixes(settings), affixes(settings)] };
    // `key=path` gives the file another name in the map.
    let is_it = |entry: &str| entry.rsplit_once('=').map_or(entry, |(_, path)| path).trim_start_matches("./") == path;
    let mut found = Vec::new();
    for entry in PATCHES.iter().flat_map(|key| items(&settings[*key])) {
        if entry["path"].as_str().or(entry.as_str()).is_some_and(is_it) {
            found.extend(named.patched(entry));
        }
    }
    for (key, kind) in GENERATORS {
        for entry in items(&settings[key]) {
            let lists = ["files", "envs"].into_iter().flat_map(|list| items(&entry[list]));
            if lists.chain([&entry["env"]]).filter_map(Value::as_str).any(is_it) {
                found.extend(named.reading(kind, entry["name"].as_str().unwrap_or_default()));
            }
        }
    }
    each_once(found)
}

/// Entries of a list that are on one side only.
fn changed<'a>(before: &'a Value, after: &'a Value) -> impl Iterator<Item = &'a Value> {
    let gone = items(before).filter(|one| !items(after).any(|other| other == *one));
    items(after).filter(|one| !items(before).any(|other| other == *one)).chain(gone)
}

/// Workloads with an image that another tag, digest or name is written for.
fn images(before: &Value, after: &Value, own: &[&Value]) -> Vec<Touched> {
    let names: BTreeSet<&str> = changed(before, after).filter_map(|entry| entry["name"].as_str()).collect();
    let entry = |side: &Value, name: &str| items(side).find(|entry| entry["name"] == name).cloned();
    let mut found = Vec::new();
    for name in names {
        let sides = [entry(before, name), entry(after, name)];
        let repositories: Vec<&str> = sides
            .iter()
            .map(|side| side.as_ref().and_then(|entry| entry["newName"].as_str()).unwrap_or(name))
            .collect();
        let line = |sign: char, side: &Option<Value>| {
            let image = side.as_ref().and_then(|entry| written(entry, name));
            image.map(|image| format!("{sign}          image: {image}\n")).unwrap_or_default()
        };
        let fields = format!("{}{}", line('-', &sides[0]), line('+', &sides[1]));
        for workload in own {
            let runs = containers(workload).filter_map(|container| container["image"].as_str());
            if runs.map(repository).any(|repository| repositories.contains(&repository)) {
                found.extend(entity(workload).map(|target| Touched {
                    target,
                    kind: Some(ChangeKind::Image),
                    fields: fields.clone(),
                }));
            }
        }
    }
    found
}

/// The image that an entry writes, where it says its tag or digest.
fn written(entry: &Value, name: &str) -> Option<String> {
    let text = |key: &str| match &entry[key] {
        Value::String(text) => Some(text.clone()),
        // `newTag: 1.10` is a number in YAML, and Kustomize takes it as it stands.
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let repository = text("newName").unwrap_or_else(|| name.to_owned());
    let digest = text("digest").map(|digest| format!("{repository}@{digest}"));
    digest.or_else(|| text("newTag").map(|tag| format!("{repository}:{tag}")))
}

/// An image without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let tag = image.rfind(':').filter(|colon| !image[*colon..].contains('/'));
    tag.map_or(image, |colon| &image[..colon])
}

/// Live objects, and what stands before and behind their names.
struct Named<'a> {
    own: &'a [&'a Value],
    affixes: [(String, String); 2],
}

impl Named<'_> {
    /// Whether a live name is one of the files, with the prefix and suffix of either side.
    fn is(&self, live: &str, written: &str) -> bool {
        live == written || self.affixes.iter().any(|(prefix, suffix)| live == format!("{prefix}{written}{suffix}"))
    }

    fn by_name(&self, name: &str, kind: ChangeKind) -> Vec<Touched> {
        let named = self.own.iter().filter(|object| {
            object["metadata"]["name"].as_str().is_some_and(|live| self.is(live, name)) && has_pods(object)
        });
        touched_as(named.copied(), kind)
    }

    /// What a patch names: its target, or the object written in it. One that names nothing reaches all.
    fn patched(&self, entry: &Value) -> Vec<Touched> {
        let inline = entry["patch"].as_str().or(entry.as_str());
        let inline = inline.and_then(|text| serde_saphyr::from_str::<Value>(text).ok()).unwrap_or_default();
        let target = if entry["target"].is_object() { &entry["target"] } else { &Value::Null };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let kind = text(&target["kind"]).or_else(|| text(&inline["kind"]));
        let name = text(&target["name"]).or_else(|| text(&inline["metadata"]["name"]));
        if kind.is_none() && name.is_none() {
            return self.all();
        }
        // Both are regular expressions that are held against the whole word.
        let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).ok();
        let matches = |pattern: &Option<String>, is: &dyn Fn(&str) -> bool, value: &str| match pattern {
            None => true,
            Some(pattern) => is(pattern) || whole(pattern).is_some_and(|pattern| pattern.is_match(value)),
        };
        let hit = self.own.iter().filter(|object| {
            let live = object["metadata"]["name"].as_str().unwrap_or_default();
            let sort = object["kind"].as_str().unwrap_or_default();
            matches(&name, &|name| self.is(live, name), live) && matches(&kind, &|kind| kind == sort, sort)
        });
        touched_as(hit.copied(), ChangeKind::Config)
    }

    /// Workloads that read a generated ConfigMap or Secret, with or without the hash behind its name.
    fn reading(&self, kind: EntityKind, name: &str) -> Vec<Touched> {
        let is_it = |read: &str| {
            let plain = read.rsplit_once('-').filter(|(_, hash)| hash.len() == HASH).map(|(plain, _)| plain);
            self.is(read, name) || plain.is_some_and(|plain| self.is(plain, name))
        };
        let reading =
            self.own.iter().filter(|object| read_by(object).keys().any(|(sort, read)| *sort == kind && is_it(read)));
        touched_as(reading.copied(), ChangeKind::Config)
    }

    fn all(&self) -> Vec<Touched> {
        touched_as(self.own.iter().copied().filter(|object| has_pods(object)), ChangeKind::Config)
    }
}

fn touched_as<'a>(objects: impl Iterator<Item = &'a Value>, kind: ChangeKind) -> Vec<Touched> {
    let one = |target| Touched { target, kind: Some(kind), fields: String::new() };
    objects.filter_map(entity).map(one).collect()
}

/// Several settings that reach one object are one change; the first that says what it is counts.
fn each_once(found: Vec<Touched>) -> Vec<Touched> {
    let mut kept: Vec<Touched> = Vec::new();
    for one in found {
        match kept.iter_mut().find(|known| known.target == one.target) {
            Some(known) => known.fields.push_str(&one.fields),
            None => kept.push(one),
        }
    }
    kept
}

fn affixes(settings: &Value) -> (String, String) {
    let text = |key: &str| settings[key].as_str().unwrap_or_default().to_owned();
    (text("namePrefix"), text("nameSuffix"))
}

fn entity(object: &Value) -> Option<Entity> {
    let meta = &object["metadata"];
    Some(Entity::new(kind_named(object["kind"].as_str()?)?, meta["namespace"].as_str()?, meta["name"].as_str()?))
}

fn has_pods(object: &Value) -> bool {
    containers(object).next().is_some()
}

fn containers(workload: &Value) -> impl Iterator<Item = &Value> {
    let template = workload.pointer("/spec/jobTemplate/spec/template").or_else(|| workload.pointer("/spec/template"));
    let pod = template.map_or(&Value::Null, |template| &template["spec"]);
    ["containers", "initContainers"].into_iter().flat_map(|list| items(&pod[list]))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(name: &str, image: &str, map: &str) -> Value {
        json!({ "kind": "Deployment", "metadata": { "namespace": "shop", "name": name }, "spec": { "template": { "spec": {
            "containers": [{ "name": "app", "image": image, "envFrom": [{ "configMapRef": { "name": map } }] }],
        } } } })
    }

    fn reached(before: &str, after: &str) -> Vec<(String, ChangeKind)> {
        let objects = [
            deployment("cart", "registry.example:5000/cart:1.1", "cart-settings-5f2d8m7k4t"),
            deployment("prod-payment", "registry.example:5000/payment@sha256:ab", "flags"),
            json!({ "kind": "ConfigMap", "metadata": { "namespace": "shop", "name": "flags" } }),
        ];
        let own: Vec<&Value> = objects.iter().collect();
        let found = touched(&read(before), &read(after), &own);
        found.into_iter().map(|one| (one.target.name, one.kind.unwrap())).collect()
    }

    fn read(text: &str) -> Value {
        settings("kustomization.yaml", text).unwrap()
    }

    #[test]
    fn settings_that_cannot_be_read_are_told_by_their_file_and_do_not_count_as_none() {
        for text in ["images: [{name: cart\n", "images: []\nimages: []\n", "- a\n"] {
            let why = settings("apps/shop/kustomization.yaml", text).unwrap_err();
            assert!(why.starts_with("apps/shop/kustomization.yaml cannot be read"), "{text}: {why}");
        }
        assert_eq!(settings("kustomization.yaml", "# nothing yet\n---\n"), Ok(Value::Null));
    }

    fn one(name: &str, kind: ChangeKind) -> Vec<(String, ChangeKind)> {
        vec![(name.to_owned(), kind)]
    }

    #[test]
    fn a_new_tag_reaches_who_runs_the_image_and_shows_it() {
        let tag = |tag: &str| {
            format!("images:\n- {{name: registry.example:5000/cart, newTag: '{tag}'}}\n- {{name: other, newTag: v1}}\n")
        };
        assert_eq!(reached(&tag("1.0"), &tag("1.1")), one("cart", ChangeKind::Image));
        let renamed = "images:\n- {name: pay, newName: registry.example:5000/payment, digest: 'sha256:ab'}\n";
        assert_eq!(reached("images: []\n", renamed), one("prod-payment", ChangeKind::Image));
        let cart = deployment("cart", "registry.example:5000/cart:1.1", "x");
        let found = touched(&read(&tag("1.0")), &read(&tag("1.1")), &[&cart]);
        assert_eq!(
            found[0].fields,
            "-          image: registry.example:5000/cart:1.0\n+          image: registry.example:5000/cart:1.1\n"
        );
    }

    #[test]
    fn replicas_patches_and_generators_reach_whom_they_name() {
        let replicas = |count: u32| format!("namePrefix: prod-\nreplicas:\n- {{name: payment, count: {count}}}\n");
        assert_eq!(reached(&replicas(2), &replicas(3)), one("prod-payment", ChangeKind::Scale));
        let patch = "patches:\n- target: {kind: Deployment, name: 'ca.*'}\n  patch: '[]'\n";
        assert_eq!(reached("{}\n", patch), one("cart", ChangeKind::Config));
        let inline =
            "patches:\n- patch: |\n    kind: Deployment\n    metadata: {name: cart}\n    spec: {paused: true}\n";
        assert_eq!(reached(inline, "{}\n"), one("cart", ChangeKind::Config));
        let map = |level: &str| format!("configMapGenerator:\n- {{name: cart-settings, literals: [LEVEL={level}]}}\n");
        assert_eq!(reached(&map("a"), &map("b")), one("cart", ChangeKind::Config));
    }

    #[test]
    fn what_names_nobody_reaches_all_and_a_list_of_files_nobody() {
        let all = reached("{}\n", "commonLabels: {team: a}\n");
        assert_eq!(all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["cart", "prod-payment"]);
        assert_eq!(reached("resources: [a.yaml]\n", "# now with b\nresources: [a.yaml, b.yaml]\n"), []);
    }

    #[test]
    fn a_file_that_a_generator_packs_or_a_patch_is_in_reaches_whom_that_names() {
        let settings = "configMapGenerator:\n- {name: cart-settings, files: [app.conf=conf/app.conf]}\npatches:\n- {path: p.json, target: {kind: Deployment, name: other}}\n";
        let cart = deployment("cart", "cart:1", "cart-settings-5f2d8m7k4t");
        let names = |path: &str| touched_by_input(&read(settings), path, &[&cart]).len();
        assert_eq!((names("conf/app.conf"), names("p.json"), names("README.md")), (1, 0, 0));
    }
}
