use std::path::Path;

use serde_json::json;

use super::*;

fn texts(files: &[(&str, &str)]) -> BTreeMap<RepoPath, String> {
    files.iter().map(|(path, text)| (RepoPath::parse(path).unwrap(), (*text).to_owned())).collect()
}

fn folder(path: &str) -> Folder {
    Folder { path: RepoPath::parse(path).unwrap(), target_namespace: None, substitutes: false }
}

/// What a case of `tests/kustomize` renders to; the real Kustomize renders the same files in the live tests.
fn case(name: &str) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kustomize");
    let mut files = BTreeMap::new();
    let mut open = vec![root.join(name)];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let inside = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                    files.insert(RepoPath::parse(&inside).unwrap(), std::fs::read_to_string(&path).unwrap());
                }
            }
        }
    }
    objects(&files, &folder(&format!("{name}/overlay"))).unwrap()
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn images_are_set_wherever_they_run_and_nowhere_else() {
    let objects = case("tags");
    let pod = &one(&objects, "Deployment")["spec"]["template"]["spec"];
    let images: Vec<&str> =
        pod["containers"].as_array().unwrap().iter().map(|one| one["image"].as_str().unwrap()).collect();
    assert_eq!(
        images,
        [
            "registry.example:5000/shop/cart:v2",
            "proxy@sha256:cccc",
            "agent:2.1@sha256:dddd",
            "registry.example:5000/shop/cart-admin:v1"
        ]
    );
    assert_eq!(pod["initContainers"][0]["image"], "mirror.example/migrate:7");
    assert_eq!(pod["volumes"][0]["image"]["reference"], "registry.example:5000/shop/model:2");
    let job = &one(&objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(job["containers"][0]["image"], "registry.example:5000/shop/cart:v2");
}

#[test]
fn patches_are_laid_over_by_the_keys_of_each_list() {
    let objects = case("patches");
    let cart = one(&objects, "Deployment");
    assert_eq!((&cart["metadata"]["name"], &cart["spec"]["replicas"]), (&json!("eu-cart-2"), &json!(4)));
    assert_eq!(cart["metadata"]["annotations"], json!({ "keep": "1", "add": "2" }));
    let app = &cart["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&app["image"], &app["args"]), (&json!("cart:v1"), &json!(["serve"])));
    assert_eq!(app["resources"]["limits"], json!({ "memory": "512Mi" }));
    assert_eq!(app["env"].as_array().unwrap().len(), 3);
    // The schema of a kind that is not Kubernetes' own is not known, so its lists are replaced.
    assert_eq!(one(&objects, "Gadget")["spec"]["containers"], json!([{ "name": "a", "size": 3 }]));
}

#[test]
fn outer_folders_come_last_and_kinds_without_namespace_get_none() {
    let objects = case("nested");
    let cart = one(&objects, "StatefulSet");
    assert_eq!(cart["spec"]["template"]["spec"]["containers"][0]["image"], "cart:v3");
    assert_eq!((&cart["metadata"]["namespace"], &cart["spec"]["replicas"]), (&json!("shop"), &json!(3)));
    assert_eq!(one(&objects, "ClusterRole")["metadata"], json!({ "name": "team-reader" }));
}

const CART: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: cart, namespace: shop}\nspec: {template: {spec: {containers: [{name: app, image: 'cart:v1'}]}}}\n";

/// The changed fields as text when one file gets another text, or the sentence why that is not known.
fn changed(files: &[(&str, &str)], path: &str, text: &str) -> Result<Vec<String>, String> {
    let before = texts(files);
    let mut after = before.clone();
    let path = RepoPath::parse(path).unwrap();
    after.insert(path.clone(), text.to_owned());
    let refused = BTreeMap::new();
    let folder = folder("apps");
    let side = |texts: &BTreeMap<RepoPath, String>| {
        render(&Files { texts, refused: &refused }, &folder).map_err(|unlocated| unlocated.sentence)
    };
    let found = compared(&side(&before)?, &side(&after)?, &folder, &[path]);
    let shown = |change: &LiveChange| {
        format!("{} {}: {:?} -> {:?}", change.object, change.field, change.from.as_deref(), change.to.as_deref())
    };
    found.map(|found| found.changes.iter().map(shown).collect()).map_err(|unlocated| unlocated.sentence)
}

#[test]
fn a_tag_that_goes_back_changes_the_image_and_nothing_else() {
    let settings =
        |tag: &str| format!("# who runs what\nresources: [cart.yaml]\nimages: [{{name: cart, newTag: {tag}}}]\n");
    let files = [("apps/kustomization.yaml", &*settings("v3")), ("apps/cart.yaml", CART)];
    assert_eq!(
        changed(&files, "apps/kustomization.yaml", &settings("v2")).unwrap(),
        ["Deployment shop/cart spec.template.spec.containers[app].image: Some(\"cart:v3\") -> Some(\"cart:v2\")"]
    );
    let why = changed(&files, "apps/kustomization.yaml", &settings("1.10")).unwrap_err();
    assert!(why.contains("newTag under images that is not a text"), "{why}");
}

#[test]
fn what_is_not_built_must_stay_as_it_is() {
    let with = |more: &str| format!("resources: [cart.yaml]\nimages: [{{name: cart, newTag: v3}}]\n{more}");
    let at = |before: &str, after: &str| {
        let files = [("apps/kustomization.yaml", &*with(before)), ("apps/cart.yaml", CART)];
        changed(&files, "apps/kustomization.yaml", &with(after))
    };
    assert_eq!(at("commonLabels: {a: b}\n", "commonLabels: {a: b}\n# same\n").unwrap(), [""; 0]);
    let why = at("commonLabels: {a: b}\n", "commonLabels: {a: c}\n").unwrap_err();
    assert!(why.contains("commonLabels of apps/kustomization.yaml"), "{why}");
    let why = at("", "replacements: [{path: r.yaml}]\n").unwrap_err();
    assert!(why.contains("replacements"), "{why}");
}

#[test]
fn a_generated_config_map_gets_another_name_with_its_contents_and_who_reads_it_too() {
    let reading = CART.replace("{name: app,", "{name: app, envFrom: [{configMapRef: {name: flags}}],");
    let settings = |level: &str| {
        format!(
            "namespace: shop\nresources: [cart.yaml]\nconfigMapGenerator: [{{name: flags, literals: [LEVEL={level}]}}]\n"
        )
    };
    let files = [("apps/kustomization.yaml", &*settings("a")), ("apps/cart.yaml", &*reading)];
    let found = changed(&files, "apps/kustomization.yaml", &settings("b")).unwrap();
    let [_, old, _, new, ..] = found[0].split('"').collect::<Vec<_>>()[..] else { panic!("{found:?}") };
    assert!(old.starts_with("flags-") && new.starts_with("flags-") && old != new);
    assert_eq!(
        found,
        [
            format!(
                "Deployment shop/cart spec.template.spec.containers[app].envFrom[0].configMapRef.name: Some({old:?}) -> Some({new:?})"
            ),
            format!("ConfigMap shop/{new} data.LEVEL: Some(\"a\") -> Some(\"b\")"),
        ]
    );
}

#[test]
fn generated_config_maps_are_named_as_kustomize_names_them() {
    let objects = case("generated");
    let names: Vec<&str> = objects.iter().filter_map(|one| one["metadata"]["name"].as_str()).collect();
    for name in ["eu-flags-d4m99cm8cm", "eu-files-ft774kgkhd", "eu-lonely-588tk542k9", "eu-plain"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}

#[test]
fn a_file_that_a_generator_of_secrets_packs_is_not_followed() {
    let settings = "resources: [cart.yaml]\nsecretGenerator: [{name: flags, files: [flags.yaml]}]\n";
    let files = [("apps/kustomization.yaml", settings), ("apps/cart.yaml", CART), ("apps/flags.yaml", "a: 1\n")];
    let why = changed(&files, "apps/flags.yaml", "a: 2\n").unwrap_err();
    assert!(why.contains("apps/flags.yaml is packed by a generator"), "{why}");
}

#[test]
fn a_reference_to_what_gets_another_name_is_not_followed() {
    let with = |account: &str| CART.replace("{containers", &format!("{{serviceAccountName: {account}, containers"));
    let settings = "resources: [cart.yaml]\nnamePrefix: eu-\n";
    let files = [("apps/kustomization.yaml", settings), ("apps/cart.yaml", &*with("one"))];
    let why = changed(&files, "apps/cart.yaml", &with("two")).unwrap_err();
    assert!(why.contains("names another object"), "{why}");
}

#[test]
fn what_does_not_fit_together_is_refused_as_kustomize_does() {
    let twice = format!("{CART}---\n{CART}");
    let refused = |settings: &str, cart: &str| {
        let texts = texts(&[("apps/kustomization.yaml", settings), ("apps/cart.yaml", cart)]);
        objects(&texts, &folder("apps")).unwrap_err().sentence
    };
    assert!(
        refused("resources: [cart.yaml]\n", &twice)
            .contains("Deployment shop/cart is defined twice below apps: apps/cart.yaml:1 and")
    );
    assert!(refused("resources: [gone.yaml]\n", CART).contains("gone.yaml, which is not there"));
    let nobody = "resources: [cart.yaml]\npatches: [{patch: '{apiVersion: apps/v1, kind: Deployment, metadata: {name: cart}}'}]\n";
    assert!(refused(nobody, CART).contains("patch for Deployment cart, which is not there"), "another namespace");
    let directive = "resources: [cart.yaml]\npatches: [{target: {kind: Deployment}, patch: '{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, $patch: delete}'}]\n";
    assert!(refused(directive, CART).contains("$patch"));
    assert!(refused("resources: [cart.yaml]\nreplicas: [{name: x, count: 2}]\n", CART).contains("replicas for x"));
    assert!(refused("resources: [../apps]\n", CART).contains("bases deep"));
}

#[test]
fn a_folder_without_a_kustomization_is_taken_in_as_flux_does_it() {
    let settings = "resources: [cart.yaml]\nimages: [{name: cart, newTag: v3}]\n";
    let plain = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: flags}\n";
    let files = [("apps/flags.yaml", plain), ("apps/cart/kustomization.yaml", settings), ("apps/cart/cart.yaml", CART)];
    let given = Folder { target_namespace: Some("prod".into()), ..folder("apps") };
    let found = objects(&texts(&files), &given).unwrap();
    assert_eq!(one(&found, "ConfigMap")["metadata"]["namespace"], "prod");
    let cart = one(&found, "Deployment");
    assert_eq!(cart["metadata"]["namespace"], "prod");
    assert_eq!(cart["spec"]["template"]["spec"]["containers"][0]["image"], "cart:v3");
}
