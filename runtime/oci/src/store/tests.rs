use crate::import::import;

use super::*;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fn now() -> jiff::Timestamp {
    jiff::Timestamp::UNIX_EPOCH
}

fn open() -> (tempfile::TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn blob_count(store: &Store) -> usize {
    store.blobs().all().unwrap().len()
}

#[test]
fn an_image_is_found_by_every_one_of_its_names() {
    let (_folder, store) = open();
    let status = import(&store, MODULE, &["hello:v1", "localhost:5000/hello"], now()).unwrap();
    assert_eq!(status.tags, ["docker.io/library/hello:v1", "localhost:5000/hello:latest"]);
    let names = ["hello:v1", "docker.io/library/hello:v1", "localhost:5000/hello", &status.id, &status.digests[0]];
    for name in names {
        let image = store.resolve(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(fs::read(store.module_path(&image)).unwrap(), MODULE);
    }
    for name in ["hello", "hello:v2", "other:v1", "", "NONSENSE"] {
        assert_eq!(store.resolve(name), None, "{name}");
    }
}

#[test]
fn images_survive_a_restart_and_leftovers_do_not() {
    let (folder, store) = open();
    let status = import(&store, COMPONENT, &["a:1"], now()).unwrap();
    let kept = blob_count(&store);
    store.blobs().put(b"a blob that nothing names").unwrap();
    fs::write(folder.path().join("tmp/half"), b"an interrupted write").unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.images(), [status]);
    assert_eq!(blob_count(&store), kept);
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_last_name_takes_the_blobs_with_it() {
    let (_folder, store) = open();
    import(&store, MODULE, &["a:1", "b:1"], now()).unwrap();
    store.remove("a:1").unwrap();
    assert!(store.resolve("b:1").is_some());
    assert!(store.remove("b:1").unwrap());
    assert_eq!(blob_count(&store), 0);
    assert!(!store.remove("b:1").unwrap());
}

#[test]
fn removing_an_id_removes_all_its_names_and_shared_blobs_stay() {
    let (_folder, store) = open();
    let early = import(&store, MODULE, &["a:1", "a:2"], now()).unwrap();
    let late = import(&store, MODULE, &["b:1"], jiff::Timestamp::from_second(1).unwrap()).unwrap();
    assert_ne!(early.id, late.id);
    store.remove(&early.id).unwrap();
    assert!(store.resolve("a:2").is_none());
    let image = store.resolve("b:1").unwrap();
    assert!(store.module_path(&image).exists(), "the module is shared");
}

#[test]
fn moving_a_tag_drops_the_old_image() {
    let (_folder, store) = open();
    import(&store, MODULE, &["a:1"], now()).unwrap();
    let new = import(&store, COMPONENT, &["a:1"], now()).unwrap();
    assert_eq!(store.images(), [new]);
    assert_eq!(blob_count(&store), 3);
}

#[test]
fn a_pinned_blob_is_not_deleted() {
    let (_folder, store) = open();
    import(&store, MODULE, &["a:1"], now()).unwrap();
    let module = Digest::of(MODULE);
    let pin = store.pin(&module);
    store.remove("a:1").unwrap();
    assert!(store.blobs().size(&module).is_some());
    drop(pin);
    import(&store, MODULE, &["a:1"], now()).unwrap();
    store.remove("a:1").unwrap();
    assert!(store.blobs().size(&module).is_none());
}

#[test]
fn a_store_has_one_owner_but_others_may_look() {
    let (folder, store) = open();
    assert!(matches!(Store::open(folder.path()), Err(Error::InUse(_))));
    import(&store, MODULE, &["a:1"], now()).unwrap();
    assert_eq!(peek(folder.path()).unwrap(), store.images());
}

#[test]
fn a_damaged_or_newer_index_is_refused_and_kept() {
    for content in ["{", r#"{"version":99,"images":{},"references":{}}"#] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("index.json"), content).unwrap();
        assert!(Store::open(folder.path()).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("index.json")).unwrap(), content);
    }
}

#[tokio::test]
async fn a_written_blob_is_verified_and_bounded() {
    let (_folder, store) = open();
    let mut writer = store.blobs().writer(10).unwrap();
    writer.write(b"hello").await.unwrap();
    let wrong = store.blobs().finish(writer, Some(&Digest::of(b"other"))).await;
    assert!(matches!(wrong, Err(Error::DigestMismatch { .. })));
    let mut writer = store.blobs().writer(4).unwrap();
    assert!(matches!(writer.write(b"hello").await, Err(Error::TooLarge { .. })));
    let mut writer = store.blobs().writer(10).unwrap();
    writer.write(b"hello").await.unwrap();
    drop(writer);
    assert_eq!(blob_count(&store), 0);
    let mut writer = store.blobs().writer(10).unwrap();
    writer.write(b"hello").await.unwrap();
    let digest = store.blobs().finish(writer, None).await.unwrap();
    assert_eq!(store.blobs().read(&digest, 5).unwrap(), b"hello");
    assert!(matches!(store.blobs().read(&digest, 4), Err(Error::TooLarge { .. })));
}
