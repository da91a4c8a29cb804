use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{Timespec, epoll};
use tempfile::TempDir;

use super::*;
use crate::refusal::{Code, Refusal};
use crate::rpc::{CONNECTIONS_MAX, LINE_BYTES_MAX, Params, Server};

/// Long enough for a machine that is busy.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

/// Calls `ask` while a server serves.
fn with_server(ask: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = Server::listen(&path, 0).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            server.watch(&epoll).unwrap();
            while !ended.load(Ordering::Relaxed) {
                let mut events = Vec::with_capacity(16);
                let brief = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&brief)).unwrap();
                for event in &events {
                    server.turn(event.data.u64(), Instant::now(), &epoll, &mut handle);
                }
                server.turn_those_due(Instant::now(), &epoll, &mut handle);
            }
        });
        // A failed assertion ends the server, too.
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask(&path)));
        ended.store(true, Ordering::Relaxed);
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn handle(method: &str, params: Params) -> Result<Value, Refusal> {
    match method {
        "echo" => Ok(params.into()),
        "long" => Ok("x".repeat(4 << 20).into()),
        _ => Err(Code::NotSupported.because(method)),
    }
}

/// Somebody who listens at a path, reads one line, does `then`, and hangs up.
fn impostor(then: impl FnOnce(&mut UnixStream) + Send + 'static) -> (TempDir, PathBuf, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let impostor = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        then(&mut stream);
    });
    (dir, path, impostor)
}

/// What comes of a call that is answered with `reply`.
fn answered(reply: impl Into<Vec<u8>>) -> Result<Value, ClientError> {
    let reply = reply.into();
    let (_dir, path, impostor) = impostor(move |stream| stream.write_all(&reply).unwrap());
    let outcome = Client::connect(&path, LONG).unwrap().call("list", json!({}));
    impostor.join().unwrap();
    outcome
}

#[test]
fn calls_are_answered_one_after_the_other() {
    with_server(|path| {
        let mut client = Client::connect(path, LONG).unwrap();
        assert_eq!(client.call("echo", json!({"pf": 3})).unwrap(), json!({"pf": 3}));
        assert_eq!(client.call("long", json!({})).unwrap().as_str().unwrap().len(), 4 << 20);
        assert_eq!(client.call("echo", json!({})).unwrap(), json!({}));
    });
}

#[test]
fn a_refusal_has_its_number_and_text_and_the_next_call_goes_on() {
    with_server(|path| {
        let mut client = Client::connect(path, LONG).unwrap();
        let Err(ClientError::Refused { errno, errstr }) = client.call("update", json!({})) else { panic!() };
        assert_eq!((errno, errstr.as_str()), (-1046, "Option is not supported: update"));
        let refused = client.call("echo", json!([])).unwrap_err();
        assert!(matches!(refused, ClientError::Refused { errno: -32602, .. }), "{refused}");
        assert!(client.call("echo", json!({})).is_ok());
    });
}

#[test]
fn a_request_too_long_for_the_service_is_refused_by_it() {
    with_server(|path| {
        let mut client = Client::connect(path, LONG).unwrap();
        let long = json!({"mac": "x".repeat(20 * LINE_BYTES_MAX)});
        let Err(ClientError::Refused { errno: -32600, errstr }) = client.call("echo", long) else { panic!() };
        assert!(errstr.contains("65536"), "{errstr}");
        assert!(matches!(client.call("echo", json!({})), Err(ClientError::Gone(_))), "the service has hung up");
    });
}

#[test]
fn who_is_quiet_when_the_service_is_full_learns_why() {
    with_server(|path| {
        let mut clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| Client::connect(path, LONG).unwrap()).collect();
        for client in &mut clients {
            client.call("echo", json!({})).unwrap();
        }
        Client::connect(path, LONG).unwrap().call("echo", json!({})).unwrap();
        let refused = clients[0].call("echo", json!({})).unwrap_err();
        assert!(matches!(refused, ClientError::Refused { errno: -32000, .. }), "{refused}");
    });
}

#[test]
fn nobody_there_is_told_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for _ in 0..2 {
        let error = Client::connect(&path, LONG).unwrap_err();
        assert!(matches!(&error, ClientError::NobodyThere(at) if *at == path));
        assert_eq!(
            error.to_string(),
            format!("{}: nobody is listening there; is the service running?", path.display())
        );
        // A socket left behind is nobody, too.
        drop(UnixListener::bind(&path));
    }
    assert!(matches!(Client::connect(&path.join("below"), LONG), Err(ClientError::NobodyThere(_))));
    let error = Client::connect(Path::new(&"x".repeat(200)), LONG).unwrap_err();
    assert!(matches!(error, ClientError::System { .. }), "{error}");
}

#[test]
fn a_socket_that_is_not_ours_is_a_matter_of_permission() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    match Client::connect(&path, LONG) {
        Err(error) => assert!(matches!(error, ClientError::Permission(_)), "{error}"),
        Ok(_) => assert!(rustix::process::geteuid().is_root(), "only root passes"),
    }
    let turned_away = answered(crate::rpc::work::error_line(Error::Peer(rustix::process::Uid::from_raw(7))));
    assert!(matches!(turned_away, Err(ClientError::Permission(_))), "{turned_away:?}");
}

#[test]
fn a_service_that_takes_nobody_in_is_waited_for_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let clients: Vec<_> = (0..4).map(|_| Client::connect(&path, SHORT)).collect();
    assert!(clients[0].is_ok(), "one may wait in the queue");
    assert!(matches!(clients.last(), Some(Err(ClientError::Timeout { .. }))), "{clients:?}");
}

#[test]
fn a_service_that_says_nothing_is_waited_for_and_no_longer() {
    let (_dir, path, impostor) = impostor(|stream| {
        stream.write_all(b"{\"jsonrpc\"").unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let mut client = Client::connect(&path, SHORT).unwrap();
    let error = client.call("list", json!({})).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { timeout: SHORT, .. }), "{error}");
    assert!(matches!(client.call("list", json!({})), Err(ClientError::Gone(_))), "it is out of step");
    drop(client);
    impostor.join().unwrap();
}

#[test]
fn a_service_that_goes_on_for_ever_is_cut_off() {
    let (_dir, path, impostor) = impostor(|stream| while stream.write_all(&[b' '; 4096]).is_ok() {});
    let mut client = Client::connect(&path, LONG).unwrap();
    client.reply_bytes_max = 1 << 20;
    let error = client.call("list", json!({})).unwrap_err();
    assert_eq!(error.to_string(), "the reply makes no sense: it has more than 1048576 bytes");
    drop(client);
    impostor.join().unwrap();
}

#[test]
fn a_reply_may_be_as_long_as_the_limit() {
    let reply = "{\"id\":1,\"result\":1}\n";
    for (reply_bytes_max, fits) in [(reply.len(), true), (reply.len() - 1, false)] {
        let (_dir, path, impostor) = impostor(move |stream| stream.write_all(reply.as_bytes()).unwrap());
        let mut client = Client::connect(&path, LONG).unwrap();
        client.reply_bytes_max = reply_bytes_max;
        assert_eq!(client.call("list", json!({})).is_ok(), fits);
        impostor.join().unwrap();
    }
}

#[test]
fn replies_that_make_no_sense_say_why() {
    for (reply, says) in [
        ("nonsense\n", "expected ident at line 1"),
        ("\n", "EOF while parsing"),
        ("[]\n", "it is no object"),
        ("{}\n", "neither a result nor an error"),
        (r#"{"id":1,"result":1,"error":{"code":1,"message":""}}"#, "it ends after 51 bytes"),
        ("{\"id\":1,\"result\":1,\"error\":{\"code\":1,\"message\":\"\"}}\n", "or both"),
        ("{\"id\":2,\"result\":1}\n", "it is for request 2"),
        ("{\"result\":1}\n", "it is for request null"),
        ("{\"id\":1,\"error\":7}\n", "no code and message"),
        ("{\"id\":1,\"result\":1}\n{\"id\":2,\"result\":1}\n", "something follows it"),
    ] {
        let error = answered(reply).unwrap_err();
        assert!(matches!(error, ClientError::Nonsense(_)), "{reply}: {error}");
        assert!(error.to_string().contains(says), "{reply}: {error}");
    }
    assert!(matches!(answered(""), Err(ClientError::Gone(_))));
    assert!(matches!(answered("{\"id\":1,\"result\":null}\n"), Ok(Value::Null)));
}
