use std::fs::File;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// The fields of the entry that `say` makes.
fn written(say: impl FnOnce()) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let journal = UnixDatagram::bind(&path).unwrap();
    let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
    tracing::subscriber::with_default(subscriber, say);
    let mut entry = vec![0; 1 << 20];
    assert_eq!(journal.recv(&mut entry).unwrap(), 0, "the first asks whether it is there");
    let len = journal.recv(&mut entry).unwrap();
    fields(&entry[..len])
}

fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let name = entry.iter().position(|byte| *byte == b'\n').unwrap();
        let (len, rest) = entry[name + 1..].split_first_chunk().unwrap();
        let (value, rest) = rest.split_at(u64::from_le_bytes(*len) as usize);
        fields.push((String::from_utf8(entry[..name].to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
        entry = rest.strip_prefix(b"\n").unwrap();
    }
    fields
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = fields.iter().filter(|(found, _)| found == name);
    let value = values.next().map(|(_, value)| value.as_str());
    assert!(values.next().is_none(), "{name} twice in {fields:?}");
    value
}

#[test]
fn a_line_has_all_its_fields_and_so_has_the_entry() {
    let fields = written(|| tracing::warn!(device = "vm1", queue = 3, mac = %"02::", "retired a queue: {}", 7));
    assert_eq!(value(&fields, "MESSAGE"), Some("retired a queue: 7 device=vm1 queue=3 mac=02::"));
    assert_eq!(value(&fields, "PRIORITY"), Some("4"));
    assert_eq!(value(&fields, "SYSLOG_IDENTIFIER"), Some("virtio-net-controller"));
    assert_eq!(value(&fields, "CODE_MODULE"), Some(module_path!()));
    assert_eq!(value(&fields, "VIRTNET_DEVICE"), Some("vm1"));
    assert_eq!(value(&fields, "VIRTNET_QUEUE"), Some("3"));
    assert_eq!(value(&fields, "VIRTNET_MAC"), Some("02::"));
}

#[test]
fn what_it_is_about_comes_from_the_span() {
    let fields = written(|| {
        let span = tracing::error_span!("function", pf = 1, vf = None::<u16>, vuid = "V", device = "outer");
        span.in_scope(|| tracing::info!(device = "inner", "here"));
    });
    assert_eq!(value(&fields, "MESSAGE"), Some("here device=inner"));
    assert_eq!(value(&fields, "PRIORITY"), Some("6"));
    assert_eq!((value(&fields, "VIRTNET_PF"), value(&fields, "VIRTNET_VF")), (Some("1"), None));
    assert_eq!((value(&fields, "VIRTNET_VUID"), value(&fields, "VIRTNET_DEVICE")), (Some("V"), Some("inner")));
}

#[test]
fn no_value_can_pass_for_a_field() {
    let fields = written(|| tracing::error!(device = "a\nPRIORITY=0\n", "b\nMESSAGE=c"));
    assert_eq!(value(&fields, "MESSAGE"), Some("b\nMESSAGE=c device=a\nPRIORITY=0\n"));
    assert_eq!((value(&fields, "PRIORITY"), value(&fields, "VIRTNET_DEVICE")), (Some("3"), Some("a\nPRIORITY=0\n")));
}

#[test]
fn a_long_value_is_cut_between_characters() {
    let long = format!("x{}", "é".repeat(1 << 20));
    let fields = written(|| tracing::debug!(long, "m"));
    assert_eq!(value(&fields, "VIRTNET_LONG").map(str::len), Some(VALUE_BYTES_MAX - 1));
    assert_eq!(
        (value(&fields, "MESSAGE").map(str::len), value(&fields, "PRIORITY")),
        (Some(VALUE_BYTES_MAX), Some("7"))
    );
}

#[test]
fn a_journal_that_is_not_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    assert!(Journal::at(&path).is_err());
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(Journal::at(&path).is_err());
}

#[test]
fn a_journal_that_has_gone_costs_only_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let journal = UnixDatagram::bind(&path).unwrap();
    let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
    drop(journal);
    tracing::subscriber::with_default(subscriber, || tracing::info!("to nobody"));
}

#[test]
fn a_journal_that_nobody_reads_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let journal = UnixDatagram::bind(&path).unwrap();
    let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"other", &path).is_ok() {}
    tracing::subscriber::with_default(subscriber, || tracing::info!("lost"));
    journal.set_nonblocking(true).unwrap();
    let mut entry = [0; 1024];
    let read = std::iter::from_fn(|| journal.recv(&mut entry).ok()).filter(|len| *len != 0);
    assert!(read.into_iter().all(|len| len == b"other".len()));
}

#[test]
fn the_stream_is_known_by_device_and_inode() {
    let file = tempfile::tempfile().unwrap();
    let found = file.metadata().unwrap();
    let (device, inode) = (found.dev(), found.ino());
    assert!(is_stream(&format!("{device}:{inode}"), &file));
    let other = inode + 1;
    for wrong in ["".into(), ":".into(), format!("{device}:{other}"), format!("{device}:{inode}0"), format!("0{inode}")]
    {
        assert!(!is_stream(&wrong, &file), "{wrong}");
    }
    assert!(!is_stream(&format!("{device}:{inode}"), &File::open("/dev/null").unwrap()));
}
