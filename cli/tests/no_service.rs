//! What the program does by itself.

#[path = "../../tests/src/aloud.rs"]
mod aloud;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Status, output, errors of the program with a run folder.
fn virtnet(run_dir: &Path, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtnet"));
    let output = command.env_clear().arg("--run-dir").arg(run_dir).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_configuration_file_is_good_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("virtnet.conf");
    let name = path.to_str().unwrap();
    fs::write(&path, r#"{"devices": []}"#).unwrap();
    assert_eq!(virtnet(folder.path(), &["validate", "-f", name]), (0, format!("{name} is valid\n"), String::new()));
    fs::write(&path, r#"{"devices": 1}"#).unwrap();
    let missing = folder.path().join("missing");
    for wrong in [name, missing.to_str().unwrap()] {
        let (status, out, error) = virtnet(folder.path(), &["validate", "-f", wrong]);
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(error.starts_with(&format!("virtnet: {wrong}: ")), "{error}");
    }
}

#[test]
fn the_schema_of_configuration_files_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (status, out, error) = virtnet(folder.path(), &["validate", "--schema"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert!(serde_json::from_str::<Value>(&out).unwrap()["properties"]["static_pf"].is_object());
    assert_eq!(virtnet(folder.path(), &["validate", "--schema", "-f", "virtnet.conf"]).0, 2);
}

#[test]
fn firmware_settings_are_set_for_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let query = |run_dir: &Path, more: &[&str]| {
        let words = [&["mlxconfig", "query", "VIRTIO_NET_EMULATION_NUM_PF", "SRIOV_EN"], more].concat();
        let (status, out, error) = virtnet(run_dir, &words);
        assert_eq!((status, error.as_str()), (0, ""));
        out
    };
    let sriov = json!({"name": "SRIOV_EN", "default": "True(1)", "current": "True(1)", "next_boot": "True(1)"});
    let pfs =
        |next: &str| json!({"name": "VIRTIO_NET_EMULATION_NUM_PF", "default": "0", "current": "0", "next_boot": next});
    let parsed = |out: &str| serde_json::from_str::<Value>(out).unwrap();
    assert_eq!(parsed(&query(folder.path(), &[])), json!({"entries": [pfs("0"), sriov]}));
    let set = virtnet(folder.path(), &["mlxconfig", "set", "VIRTIO_NET_EMULATION_NUM_PF=4"]);
    assert_eq!(set, (0, "{\n  \"errno\": 0,\n  \"errstr\": \"Success\"\n}\n".into(), String::new()));
    assert_eq!(parsed(&query(folder.path(), &[])), json!({"entries": [pfs("4"), sriov]}));
    assert!(folder.path().join("state/firmware.json").exists());
    let table = query(folder.path(), &["--format", "table"]);
    assert!(table.contains("Next Boot") && table.contains("*        VIRTIO_NET_EMULATION_NUM_PF"), "{table}");
    let (_, all, _) = virtnet(folder.path(), &["mlxconfig", "query"]);
    assert!(parsed(&all)["entries"].as_array().unwrap().len() > 20);
}

#[test]
fn firmware_settings_go_back_to_their_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let next = || {
        let (_, out, _) = virtnet(folder.path(), &["mlxconfig", "query", "VIRTIO_NET_EMULATION_NUM_PF", "SRIOV_EN"]);
        let entries: Value = serde_json::from_str(&out).unwrap();
        [0, 1].map(|at| entries["entries"][at]["next_boot"].as_str().unwrap().to_owned())
    };
    let set = ["mlxconfig", "set", "VIRTIO_NET_EMULATION_NUM_PF=4", "SRIOV_EN=0"];
    assert_eq!(virtnet(folder.path(), &set).0, 0);
    assert_eq!(next(), ["4", "False(0)"]);
    let reset = virtnet(folder.path(), &["mlxconfig", "reset"]);
    assert_eq!(reset, (0, "{\n  \"errno\": 0,\n  \"errstr\": \"Success\"\n}\n".into(), String::new()));
    assert_eq!(next(), ["0", "True(1)"]);
}

#[test]
fn each_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/pages");
    let (status, out, error) = virtnet(folder.path(), &["man", pages.to_str().unwrap()]);
    assert_eq!((status, error.as_str()), (0, ""));
    let names: Vec<String> =
        fs::read_dir(&pages).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(out, format!("{} pages are in {}\n", names.len(), pages.display()));
    for name in
        ["virtnet.1", "virtnet-hotplug.1", "virtnet-modify-device.1", "virtnet-top.1", "virtio-net-controller.8"]
    {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("man") || name.contains("help")), "{names:?}");
    if Command::new("groff").arg("--version").output().is_err() {
        aloud::skip("pages are not rendered: no groff");
        return;
    }
    for name in names {
        let output =
            Command::new("groff").args(["-man", "-ww", "-Tutf8", "-P-cbu"]).arg(pages.join(&name)).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(0), "".into()), "{name}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("NAME"), "{name}");
        assert_eq!(text.contains("µs"), name == "virtnet-modify-queue.1", "{name}");
    }
}

#[test]
fn a_folder_that_pages_cannot_be_in_is_named() {
    let (status, out, error) = virtnet(Path::new("/"), &["man", "/dev/null/pages"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(error.starts_with("virtnet: /dev/null/pages: "), "{error}");
}

#[test]
fn the_state_folder_can_be_another() {
    let (run_dir, state_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = state_dir.path().to_str().unwrap();
    let words = ["--state-dir", state, "mlxconfig", "set", "SRIOV_EN=0"];
    assert_eq!(virtnet(run_dir.path(), &words).0, 0);
    assert!(state_dir.path().join("firmware.json").exists() && !run_dir.path().join("state").exists());
}

#[test]
fn wrong_firmware_settings_are_refused_and_nothing_is_set() {
    let folder = tempfile::tempdir().unwrap();
    for (wrong, text) in [
        (&["set", "SRIOV_EN=0", "VIRTIO_NET_EMULATION_NUM_PF=32"][..], "0 to 31"),
        (&["set", "SRIOV_EN=0", "NOTHING=1"], "NOTHING"),
        (&["set", "SRIOV_EN"], "NAME=VALUE"),
        (&["query", "NOTHING"], "NOTHING"),
    ] {
        let (status, out, error) = virtnet(folder.path(), &[&["mlxconfig"], wrong].concat());
        assert_eq!((status, error.as_str()), (1, ""));
        let refusal: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(refusal["errno"], -22);
        assert!(refusal["errstr"].as_str().unwrap().contains(text), "{refusal}");
    }
    assert!(!folder.path().join("state/firmware.json").exists());
}

#[test]
fn a_broken_firmware_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    let file = folder.path().join("state/firmware.json");
    fs::write(&file, "{").unwrap();
    for words in [&["mlxconfig", "query"][..], &["mlxconfig", "set", "SRIOV_EN=0"]] {
        let (status, out, error) = virtnet(folder.path(), words);
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(error.starts_with(&format!("virtnet: {}: ", file.display())), "{error}");
    }
}
