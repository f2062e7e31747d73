//! Files of a Collector: nothing is mounted or read unless a volume is named.

use serde_json::{Value, json};

use crate::{named, rendered, texts};

#[tokio::test]
async fn files_are_read_from_the_volume_that_is_named_and_only_read() {
    let of_pod = |documents: &[Value]| -> (Vec<String>, Vec<Value>, Vec<Value>) {
        let pod = &named(documents, "Deployment", "amend")["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let about_it = |one: &&str| one.starts_with("--telemetry-files");
        let ours = |list: &Value| -> Vec<Value> {
            let list = list.as_array().into_iter().flatten();
            list.filter(|one| one["name"] == "telemetry-files").cloned().collect()
        };
        let arguments = texts(&container["args"]).into_iter().filter(about_it).map(str::to_owned).collect();
        (arguments, ours(&container["volumeMounts"]), ours(&pod["volumes"]))
    };
    assert_eq!(of_pod(&rendered(&[]).await), (Vec::new(), Vec::new(), Vec::new()));
    let volume = r#"telemetryFiles.volume={"persistentVolumeClaim":{"claimName":"otlp","readOnly":true}}"#;
    let (arguments, mounts, volumes) = of_pod(&rendered(&[volume]).await);
    assert_eq!(arguments, ["--telemetry-files=/telemetry-files"]);
    assert_eq!(mounts, [json!({"name": "telemetry-files", "mountPath": "/telemetry-files", "readOnly": true})]);
    let claim = json!({"claimName": "otlp", "readOnly": true});
    assert_eq!(volumes, [json!({"name": "telemetry-files", "persistentVolumeClaim": claim})]);
}
