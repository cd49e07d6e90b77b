use std::sync::{Arc, Mutex};

use raft::eraftpb::HardState;

use super::*;
use crate::council::found;
use crate::view::View;

const NODE: NodeId = NodeId(3);

/// A directory that goes away with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("relay-views-{name}-{}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        let _ = fs::remove_dir_all(&place.0);
        place
    }

    fn open(&self) -> Result<(DiskLog, Found), OpenError> {
        DiskLog::open(&self.0, NODE, 77)
    }

    fn log(&self) -> PathBuf {
        self.0.join(LOG)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hard(term: u64) -> Record {
    let mut hard = HardState::default();
    (hard.term, hard.vote) = (term, 5);
    Record::Hard(hard)
}

fn batch(terms: std::ops::Range<u64>) -> Batch {
    Batch { records: terms.map(hard).collect(), sync: true, replace: false }
}

/// A log with the terms 1 to 5, each in a batch of its own.
fn five(place: &Place) {
    let (mut log, _) = place.open().unwrap();
    (1..6).for_each(|term| log.write(&batch(term..term + 1)).unwrap());
}

#[test]
fn what_was_written_is_read() {
    let place = Place::new("read");
    five(&place);
    let (mut log, found_first) = place.open().unwrap();
    assert_eq!(found_first.memory.seat, Seat::new(NODE, 77));
    assert_eq!(found_first.memory.records, (1..6).map(hard).collect::<Vec<_>>());
    let founded = found(&[Seat::new(NODE, 77)], &View::genesis());
    log.write(&founded).unwrap();
    log.write(&batch(7..9)).unwrap();
    drop(log);
    let (_, found_again) = place.open().unwrap();
    let expected = [founded.records, vec![hard(7), hard(8)]].concat();
    assert_eq!((found_again.memory.records, found_again.cut), (expected, 0));
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let place = Place::new("torn");
    five(&place);
    let whole = fs::read(place.log()).unwrap();
    let record = (whole.len() - HEADER) / 5;
    for missing in 1..record {
        fs::write(place.log(), &whole[..whole.len() - missing]).unwrap();
        let (mut log, found) = place.open().unwrap();
        assert_eq!(found.memory.records.len(), 4);
        assert_eq!(found.cut, (record - missing) as u64);
        log.write(&batch(5..6)).unwrap();
        assert_eq!(fs::read(place.log()).unwrap(), whole);
    }
    let mut zeros = whole.clone();
    zeros.extend([0; 100]);
    fs::write(place.log(), zeros).unwrap();
    assert_eq!(place.open().unwrap().1.cut, 100);
}

#[test]
fn damage_in_the_middle_is_refused_and_named() {
    let place = Place::new("damage");
    five(&place);
    let whole = fs::read(place.log()).unwrap();
    let last = whole.len() - (whole.len() - HEADER) / 5;
    for at in 0..last {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(place.log(), &bytes).unwrap();
        let Err(error) = place.open() else { panic!("byte {at} was not missed") };
        let text = error.to_string();
        assert!(text.contains(LOG) && text.contains("move the directory"), "{at}: {text}");
    }
}

#[test]
fn the_log_of_another_node_or_process_is_refused() {
    let place = Place::new("other");
    let (_log, _) = place.open().unwrap();
    assert!(matches!(place.open(), Err(OpenError::InUse { .. })));
    drop(_log);
    let other = DiskLog::open(&place.0, NodeId(4), 1);
    assert!(matches!(other, Err(OpenError::OtherNode { node: NODE, .. })));
}

/// A file that fails on demand.
#[derive(Clone, Default)]
struct Faulty(Arc<Mutex<Faults>>);

#[derive(Default)]
struct Faults {
    bytes: Vec<u8>,
    append: Option<ErrorKind>,
    sync: bool,
}

impl Medium for Faulty {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut faults = self.0.lock().unwrap();
        let written = if faults.append.is_some() { bytes.len() / 2 } else { bytes.len() };
        faults.bytes.extend(&bytes[..written]);
        faults.append.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn sync(&mut self) -> io::Result<()> {
        let fails = self.0.lock().unwrap().sync;
        if fails { Err(ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().bytes.truncate(length as usize);
        Ok(())
    }
}

#[test]
fn a_full_disk_can_be_tried_again_and_leaves_nothing_behind() {
    let place = Place::new("full");
    let (mut log, _) = place.open().unwrap();
    let faulty = Faulty::default();
    (log.file, log.length) = (Box::new(faulty.clone()), 0);
    log.write(&batch(1..2)).unwrap();
    let before = faulty.0.lock().unwrap().bytes.clone();
    faulty.0.lock().unwrap().append = Some(ErrorKind::StorageFull);
    let error = log.write(&batch(2..3)).unwrap_err();
    assert!(matches!(&error, Failure::Full { .. }) && error.to_string().contains("full"));
    assert_eq!(faulty.0.lock().unwrap().bytes, before);
    faulty.0.lock().unwrap().append = None;
    log.write(&batch(2..3)).unwrap();
    assert_eq!(faulty.0.lock().unwrap().bytes.len(), 2 * before.len());
}

#[test]
fn after_a_failed_sync_nothing_is_believed() {
    let place = Place::new("sync");
    let (mut log, _) = place.open().unwrap();
    let faulty = Faulty::default();
    (log.file, log.length) = (Box::new(faulty.clone()), 0);
    faulty.0.lock().unwrap().sync = true;
    assert!(matches!(log.write(&batch(1..2)), Err(Failure::Unknown { .. })));
    faulty.0.lock().unwrap().sync = false;
    assert!(matches!(log.write(&batch(1..2)), Err(Failure::Unknown { .. })));
}

#[test]
fn a_log_of_another_version_is_refused_and_left_alone() {
    let place = Place::new("version");
    five(&place);
    for version in [1u32, VERSION + 1] {
        let mut bytes = fs::read(place.log()).unwrap();
        bytes[8..12].copy_from_slice(&version.to_be_bytes());
        let sum = crc32c::crc32c(&bytes[..HEADER - 4]).to_be_bytes();
        bytes[HEADER - 4..HEADER].copy_from_slice(&sum);
        fs::write(place.log(), &bytes).unwrap();
        let refused = place.open().map(drop).unwrap_err();
        assert!(matches!(&refused, OpenError::Version { version: v, .. } if *v == version));
        assert!(refused.to_string().contains("away and start again"), "{refused}");
        assert_eq!(fs::read(place.log()).unwrap(), bytes);
    }
}
