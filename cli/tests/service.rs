//! The program against a service that says what it is told to.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program, with this run folder and no environment of its own.
fn virtnet(run_dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtnet"));
    command.env_clear().arg("--run-dir").arg(run_dir).args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// A folder with a service that answers one request with `fields`; returns the folder and what joins to the request.
fn serving(fields: Value) -> (TempDir, thread::JoinHandle<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("virtnet.sock")).unwrap();
    let service = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let request: Value = serde_json::from_str(&line).unwrap();
        let mut reply = json!({"jsonrpc": "2.0", "id": request["id"]});
        reply.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        stream.write_all(format!("{reply}\n").as_bytes()).unwrap();
        request
    });
    (folder, service)
}

/// What a line prints when the service answers with `fields`: status, output, errors; and what was asked.
fn answered(line: &str, fields: Value) -> (i32, String, String, Value) {
    let (folder, service) = serving(fields);
    let (status, out, error) = ended(virtnet(folder.path(), line).output().unwrap());
    (status, out, error, service.join().unwrap())
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_reply_is_printed_in_the_order_it_came() {
    let reply = json!({"bdf": "15:00.0", "id": 0, "aarfs": [1, {}], "errno": 0, "errstr": "Success"});
    let line = "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -qp 1 -s 1024";
    let (status, out, error, request) = answered(line, json!({"result": reply}));
    let expected = "{\n  \"bdf\": \"15:00.0\",\n  \"id\": 0,\n  \"aarfs\": [\n    1,\n    {}\n  ],\n  \"errno\": 0,\n  \"errstr\": \"Success\"\n}\n";
    assert_eq!((status, out.as_str(), error.as_str()), (0, expected, ""));
    assert_eq!((&request["jsonrpc"], &request["method"]), (&json!("2.0"), &json!("hotplug")));
    assert_eq!(
        request["params"],
        json!({"ib_device": "mlx5_0", "mac": "0C:C4:7A:FF:22:93", "mtu": 1500, "max_queue_pairs": 1, "max_queue_size": 1024})
    );
}

#[test]
fn a_request_without_options_has_an_empty_object() {
    let (status, out, _, request) = answered("list --format table", json!({"result": {"devices": []}}));
    assert_eq!((status, &request["params"]), (0, &json!({})));
    assert!(out.contains("vuid"), "{out}");
}

#[test]
fn words_are_printed_as_the_product_prints_them() {
    assert_eq!(answered("log -l info", json!({"result": "Success"})).1, "\"Success\"\n");
    assert_eq!(answered("restart", json!({"result": {}})).1, "SUCCESS\n");
    let (status, out, ..) = answered("version", json!({"result": {"version": "v0.0.9"}}));
    let versions: Value = serde_json::from_str(&out).unwrap();
    let installed = concat!("v", env!("CARGO_PKG_VERSION"));
    assert_eq!(versions, json!([{"Original Controller": "v0.0.9"}, {"Destination Controller": installed}]));
    assert_eq!(status, 0);
}

#[test]
fn what_is_refused_is_printed_and_ends_with_1() {
    let expected = "{\n  \"errno\": -1001,\n  \"errstr\": \"Device doesn't exist: pf 7\"\n}\n";
    for line in ["stats -p 7", "modify -p 7 device -l 0", "health -p 7 --format table", "restart"] {
        let refusal = json!({"error": {"code": -1001, "message": "Device doesn't exist: pf 7"}});
        let (status, out, error, _) = answered(line, refusal);
        assert_eq!((status, out.as_str(), error.as_str()), (1, expected, ""), "{line}");
    }
    let refusal = json!({"error": {"code": -1050, "message": "Queue index is invalid: 9"}});
    assert_eq!(
        answered("query -p 0 -q 9", refusal).1,
        "{\n  \"errno\": -1050,\n  \"errstr\": \"Queue index is invalid: 9\"\n}\n"
    );
    let reply = json!({"result": {"errno": -1043, "errstr": "Device will not be functional, do not probe it"}});
    assert_eq!(answered("modify -p 0 -v 0 device -n 0", reply).0, 1);
}

#[test]
fn a_query_of_what_is_not_there_has_the_products_shape() {
    for line in ["query -p 7", "query -p 0 -v 7 -b", "query -u MT1 --format table"] {
        let refusal = json!({"error": {"code": -1001, "message": "Device doesn't exist: there is none"}});
        let (status, out, error, _) = answered(line, refusal);
        let expected = "{\n  \"Error\": \"Device doesn't exist\"\n}\n";
        assert_eq!((status, out.as_str(), error.as_str()), (1, expected, ""), "{line}");
    }
}

#[test]
fn top_ends_as_other_commands_do() {
    let (status, out, _, request) =
        answered("top --once", json!({"error": {"code": -32601, "message": "no such method"}}));
    assert_eq!((status, &request["method"]), (1, &json!("rates")));
    assert!(out.contains("-32601"), "{out}");
    for reply in [json!({"result": []}), json!({"result": {"seconds": "x"}})] {
        let (status, out, error, _) = answered("top --once", reply);
        assert_eq!((status, out.as_str()), (3, ""));
        assert!(error.starts_with("virtnet: the reply makes no sense: rates: "), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(ended(virtnet(folder.path(), "top --once").output().unwrap()).0, 3);
}

#[test]
fn the_echo_is_on_standard_error_when_it_is_asked_for() {
    for (line, echo) in [
        ("modify -p 0 device -l 0", ""),
        ("--echo modify -p 0 device -l 0", "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'link': '0x0'}\n"),
        (
            "modify -p 0 device -dim enable --echo",
            "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'dim_config': 'enable'}\n",
        ),
    ] {
        let (status, out, error, _) = answered(line, json!({"result": {"errno": 0, "errstr": "Success"}}));
        let expected = "{\n  \"errno\": 0,\n  \"errstr\": \"Success\"\n}\n";
        assert_eq!((status, out.as_str(), error.as_str()), (0, expected, echo), "{line}");
    }
}

#[test]
fn without_a_service_it_ends_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("virtnet.sock");
    for leave in [false, true] {
        if leave {
            drop(UnixListener::bind(&socket).unwrap());
        }
        let (status, out, error) = ended(virtnet(folder.path(), "list").output().unwrap());
        assert_eq!((status, out.as_str()), (3, ""));
        assert!(error.starts_with("virtnet: ") && error.contains(socket.to_str().unwrap()), "{error}");
    }
    let long = folder.path().join("x".repeat(200));
    assert_eq!(ended(virtnet(&long, "list").output().unwrap()).0, 3);
}

#[test]
fn who_is_no_service_ends_it_with_3() {
    for said in [&b""[..], b"{", b"SSH-2.0\n", b"[]\n", b"{}\n", b"\xff\n", b"{\"jsonrpc\": \"2.0\", \"id\": 1}\n"] {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("virtnet.sock")).unwrap();
        let service = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(said).unwrap();
        });
        let (status, out, error) = ended(virtnet(folder.path(), "list").output().unwrap());
        assert_eq!((status, out.as_str()), (3, ""), "{error}");
        assert!(error.starts_with("virtnet: "), "{error}");
        service.join().unwrap();
    }
}

#[test]
fn the_environment_says_where_the_service_is() {
    let (folder, service) = serving(json!({"result": "Success"}));
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtnet"));
    let output = command.env_clear().env("VIRTNET_RUN_DIR", folder.path()).args(["log", "-l", "err"]).output();
    assert_eq!(ended(output.unwrap()), (0, "\"Success\"\n".into(), String::new()));
    assert_eq!(service.join().unwrap()["params"], json!({"level": "err"}));
}

#[test]
fn a_line_that_makes_no_sense_ends_with_2() {
    let (status, out, error) = ended(virtnet(Path::new("/"), "query").output().unwrap());
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(error.contains("--vuid <VUID>"), "{error}");
    assert_eq!(ended(virtnet(Path::new("/"), "-v").output().unwrap()).0, 0);
}

#[test]
fn who_stops_reading_is_no_error() {
    let devices: Vec<_> = (0..10_000).map(|pf| json!({"pf_id": pf})).collect();
    let (folder, service) = serving(json!({"result": {"devices": devices}}));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = virtnet(folder.path(), "list").stdout(writer).output().unwrap();
    assert_eq!(ended(output), (0, String::new(), String::new()));
    service.join().unwrap();
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let (folder, service) = serving(json!({"result": {}}));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (status, _, error) = ended(virtnet(folder.path(), "list").stdout(full).output().unwrap());
    assert_eq!(status, 1);
    assert!(error.starts_with("virtnet: standard output: "), "{error}");
    service.join().unwrap();
}
