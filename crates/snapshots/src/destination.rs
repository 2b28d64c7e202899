//! A place for snapshots: a directory, or a bucket of an object store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as ObjectPath;
use object_store::{
    BackoffConfig, ClientConfigKey, Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode,
    PutOptions, RetryConfig, UpdateVersion, WriteMultipart,
};
use tokio::io::AsyncReadExt as _;

use crate::directory;
use crate::error::RepositoryError;

/// How requests that failed are repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Before the first repetition.
    pub initial_interval: Duration,
    /// Grows by.
    pub factor: f64,
    /// At most.
    pub max_interval: Duration,
    /// Repetitions.
    pub max_attempts: usize,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_millis(100),
            factor: 2.0,
            max_interval: Duration::from_secs(10),
            max_attempts: 10,
        }
    }
}

/// How stores are reached. What is unset comes from the environment, as the stores' own tools have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreSettings {
    /// Of S3.
    pub aws_region: Option<String>,
    /// Of what speaks like S3.
    pub aws_endpoint_url: Option<String>,
    /// Credentials.
    pub aws_access_key_id: Option<String>,
    /// Credentials.
    pub aws_secret_access_key: Option<String>,
    /// Credentials.
    pub aws_session_token: Option<String>,
    /// Whether an endpoint without TLS will do.
    pub aws_allow_http: bool,
    /// Of requests.
    pub retry: RetryPolicy,
}

/// One request may take so long.
const REQUEST_WITHIN: Duration = Duration::from_secs(60);
/// Documents are small; a larger one is none.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are read and sent at a time.
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks of one file that are under way at a time.
const CHUNKS_UNDER_WAY_MAX: usize = 2;

/// A place for snapshots. Cheap to clone. What is in it is named by paths with slashes below it.
#[derive(Clone)]
pub struct Destination {
    place: Place,
    url: Arc<str>,
}

#[derive(Clone)]
enum Place {
    Directory(Arc<Path>),
    Bucket {
        store: Arc<dyn ObjectStore>,
        prefix: ObjectPath,
    },
}

/// A document and what a conditional write of it needs.
pub(crate) struct Stored {
    pub bytes: Bytes,
    pub version: Version,
}

/// What a document was when it was read.
#[derive(Debug, Clone)]
pub(crate) enum Version {
    /// As the store says it.
    Tag(UpdateVersion),
    /// A directory goes by what is in the file.
    Content(Bytes),
}

impl Destination {
    /// A place: `file:///directory`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Asks
    /// nobody.
    ///
    /// # Errors
    /// It is not such a URL, or the settings do not fit.
    pub fn open(url: &str, settings: &StoreSettings) -> Result<Self, RepositoryError> {
        let wrong = |reason: String| RepositoryError::Url {
            url: url.to_owned(),
            reason,
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong("write file://, s3://, gs:// or az:// and a place".to_owned()))?;
        let place = if scheme == "file" {
            if !rest.starts_with('/') {
                let right = "write file:///DIRECTORY with an absolute path";
                return Err(wrong(right.to_owned()));
            }
            Place::Directory(PathBuf::from(rest).into())
        } else {
            if !matches!(scheme, "s3" | "gs" | "az") {
                return Err(wrong(format!("'{scheme}' is not file, s3, gs or az")));
            }
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(wrong(format!("write {scheme}://BUCKET/PREFIX")));
            }
            let prefix = ObjectPath::parse(prefix.trim_matches('/'));
            Place::Bucket {
                prefix: prefix.map_err(|error| wrong(error.to_string()))?,
                store: bucket_of(scheme, bucket, settings)
                    .map_err(|error| wrong(error.to_string()))?,
            }
        };
        Ok(Self {
            place,
            url: url.trim_end_matches('/').into(),
        })
    }

    /// As it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn store_error(&self, doing: &'static str, path: &str, source: StoreError) -> RepositoryError {
        match source {
            StoreError::NotFound { .. } => self.missing(path),
            source => RepositoryError::Store {
                doing,
                path: path.to_owned(),
                url: self.url.to_string(),
                source: Box::new(source),
            },
        }
    }

    pub(crate) fn missing(&self, path: &str) -> RepositoryError {
        RepositoryError::Missing {
            path: path.to_owned(),
            url: self.url.to_string(),
        }
    }

    fn io_error(
        &self,
        doing: &'static str,
        path: &Path,
        source: std::io::Error,
    ) -> RepositoryError {
        RepositoryError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// Does something with a file of a directory, where waiting for the disk holds nobody up.
    async fn on_disk<T: Send + 'static>(
        &self,
        doing: &'static str,
        path: PathBuf,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let at = path.clone();
        let done = tokio::task::spawn_blocking(move || work(&at)).await;
        let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        done.map_err(|source| self.io_error(doing, &path, source))
    }

    /// A document, if it is there.
    pub(crate) async fn document(&self, path: &str) -> Result<Option<Stored>, RepositoryError> {
        match &self.place {
            Place::Directory(root) => {
                let read = self
                    .on_disk("read", root.join(path), directory::read)
                    .await?;
                Ok(read.map(|bytes| {
                    let bytes = Bytes::from(bytes);
                    Stored {
                        version: Version::Content(bytes.clone()),
                        bytes,
                    }
                }))
            }
            Place::Bucket { store, prefix } => {
                let found = match store.get(&below(prefix, path)).await {
                    Err(StoreError::NotFound { .. }) => return Ok(None),
                    found => found.map_err(|source| self.store_error("read", path, source))?,
                };
                if DOCUMENT_BYTES_MAX < found.meta.size {
                    return Err(RepositoryError::Malformed {
                        path: path.to_owned(),
                        reason: format!("it has {} bytes", found.meta.size),
                    });
                }
                let version = Version::Tag(UpdateVersion {
                    e_tag: found.meta.e_tag.clone(),
                    version: found.meta.version.clone(),
                });
                let bytes = found.bytes().await;
                let bytes = bytes.map_err(|source| self.store_error("read", path, source))?;
                Ok(Some(Stored { bytes, version }))
            }
        }
    }

    pub(crate) async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), RepositoryError> {
        match &self.place {
            Place::Directory(root) => {
                let write = move |path: &Path| directory::write(path, &bytes);
                self.on_disk("write", root.join(path), write).await
            }
            Place::Bucket { store, prefix } => {
                let put = store.put(&below(prefix, path), bytes.into()).await;
                put.map(drop)
                    .map_err(|source| self.store_error("write", path, source))
            }
        }
    }

    /// Writes a document if it is as it was read, or if there is none and none was read. `false`: it is not.
    pub(crate) async fn replace(
        &self,
        path: &str,
        bytes: Vec<u8>,
        expected: Option<Version>,
    ) -> Result<bool, RepositoryError> {
        match &self.place {
            Place::Directory(root) => {
                let expected = match expected {
                    Some(Version::Content(content)) => Some(content),
                    // It was not read here.
                    Some(Version::Tag(_)) => return Ok(false),
                    None => None,
                };
                let replace =
                    move |path: &Path| directory::replace(path, &bytes, expected.as_deref());
                self.on_disk("write", root.join(path), replace).await
            }
            Place::Bucket { store, prefix } => {
                let mode = match expected {
                    Some(Version::Tag(tag)) => PutMode::Update(tag),
                    Some(Version::Content(_)) => return Ok(false),
                    None => PutMode::Create,
                };
                let options = PutOptions::from(mode);
                match store
                    .put_opts(&below(prefix, path), bytes.into(), options)
                    .await
                {
                    Ok(_) => Ok(true),
                    Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. }) => {
                        Ok(false)
                    }
                    Err(source) => Err(self.store_error("write", path, source)),
                }
            }
        }
    }

    /// Sends a file. Holds a few chunks of it in memory, whatever its size.
    pub(crate) async fn upload(&self, from: &Path, path: &str) -> Result<(), RepositoryError> {
        let (store, to) = match &self.place {
            Place::Directory(root) => {
                let from = from.to_owned();
                let copy = move |to: &Path| directory::copy(&from, to);
                return self.on_disk("write", root.join(path), copy).await;
            }
            Place::Bucket { store, prefix } => (store, below(prefix, path)),
        };
        let io_error = |source| self.io_error("read", from, source);
        let store_error = |source| self.store_error("write", path, source);
        let mut file = tokio::fs::File::open(from).await.map_err(io_error)?;
        let bytes = file.metadata().await.map_err(io_error)?.len();
        if bytes <= CHUNK_BYTES as u64 {
            let content = tokio::fs::read(from).await.map_err(io_error)?;
            return self.put(path, content).await;
        }
        let upload = store.put_multipart(&to).await.map_err(store_error)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, CHUNK_BYTES);
        let sent = async {
            loop {
                let capacity = upload.wait_for_capacity(CHUNKS_UNDER_WAY_MAX).await;
                capacity.map_err(store_error)?;
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                let mut rest = (&mut file).take(CHUNK_BYTES as u64);
                if rest.read_to_end(&mut chunk).await.map_err(io_error)? == 0 {
                    return Ok(());
                }
                upload.put(chunk.into());
            }
        };
        match sent.await {
            Ok(()) => upload.finish().await.map(drop).map_err(store_error),
            Err(error) => {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%to, %error, "an upload that broke off leaves parts behind");
                }
                Err(error)
            }
        }
    }

    /// The content of an object, piece by piece.
    pub(crate) async fn content(
        &self,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, RepositoryError>>, RepositoryError> {
        let here = self.clone();
        match &self.place {
            Place::Directory(root) => {
                let at = root.join(path);
                let file = match tokio::fs::File::open(&at).await {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Err(self.missing(path));
                    }
                    file => file.map_err(|source| self.io_error("read", &at, source))?,
                };
                let pieces = stream::try_unfold((file, at, here), async |(mut file, at, here)| {
                    let mut piece = vec![0; 1 << 20];
                    let read = file.read(&mut piece).await;
                    let read = read.map_err(|source| here.io_error("read", &at, source))?;
                    piece.truncate(read);
                    Ok((read > 0).then(|| (Bytes::from(piece), (file, at, here))))
                });
                Ok(pieces.boxed())
            }
            Place::Bucket { store, prefix } => {
                let found = store.get(&below(prefix, path)).await;
                let found = found.map_err(|source| self.store_error("read", path, source))?;
                let path = path.to_owned();
                let pieces = found.into_stream();
                Ok(pieces
                    .map_err(move |source| here.store_error("read", &path, source))
                    .boxed())
            }
        }
    }

    /// The paths of everything below a path.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<String>, RepositoryError> {
        match &self.place {
            Place::Directory(root) => {
                let base = Arc::clone(root);
                let list = move |dir: &Path| {
                    let mut found = Vec::new();
                    directory::list(dir, &mut found)?;
                    let below = found
                        .iter()
                        .filter_map(|path| path.strip_prefix(&base).ok());
                    Ok(below
                        .map(|path| path.to_string_lossy().into_owned())
                        .collect())
                };
                self.on_disk("list", root.join(path), list).await
            }
            Place::Bucket { store, prefix } => {
                let depth = prefix.parts().count();
                let listed = store.list(Some(&below(prefix, path)));
                let paths = listed.map_ok(|found| {
                    let parts: Vec<_> = found.location.parts().skip(depth).collect();
                    let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
                    names.join("/")
                });
                let paths: Result<Vec<_>, _> = paths.try_collect().await;
                paths.map_err(|source| self.store_error("list", path, source))
            }
        }
    }

    /// Deletes; what is gone already is no error.
    pub(crate) async fn delete(&self, paths: Vec<String>) -> Result<(), RepositoryError> {
        match &self.place {
            Place::Directory(root) => {
                for path in paths {
                    self.on_disk("delete", root.join(path), directory::remove)
                        .await?;
                }
                Ok(())
            }
            Place::Bucket { store, prefix } => {
                let paths: Vec<_> = paths.iter().map(|path| Ok(below(prefix, path))).collect();
                let mut deleted = store.delete_stream(stream::iter(paths).boxed());
                while let Some(outcome) = deleted.next().await {
                    match outcome {
                        Ok(_) | Err(StoreError::NotFound { .. }) => {}
                        Err(source) => return Err(self.store_error("delete", "objects", source)),
                    }
                }
                Ok(())
            }
        }
    }
}

fn below(prefix: &ObjectPath, path: &str) -> ObjectPath {
    path.split('/')
        .fold(prefix.clone(), |path, part| path.join(part))
}

fn bucket_of(
    scheme: &str,
    bucket: &str,
    settings: &StoreSettings,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    // Whoever made the process may have chosen one; the first stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: settings.retry.initial_interval,
            max_backoff: settings.retry.max_interval,
            base: settings.retry.factor,
        },
        max_retries: settings.retry.max_attempts,
        ..RetryConfig::default()
    };
    // As one option among those of the environment, such as whether TLS can be done without.
    let (key, within) = (
        ClientConfigKey::Timeout,
        format!("{}s", REQUEST_WITHIN.as_secs()),
    );
    Ok(match scheme {
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .with_retry(retry)
                .with_config(GoogleConfigKey::Client(key), within)
                .build()?,
        ),
        "az" => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_container_name(bucket)
                .with_retry(retry)
                .with_config(AzureConfigKey::Client(key), within)
                .build()?,
        ),
        _ => {
            let mut builder = AmazonS3Builder::from_env()
                .with_config(AmazonS3ConfigKey::Client(key), within)
                .with_bucket_name(bucket)
                .with_retry(retry);
            if settings.aws_allow_http {
                builder = builder.with_allow_http(true);
            }
            if let Some(region) = &settings.aws_region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = &settings.aws_endpoint_url {
                builder = builder.with_endpoint(endpoint);
            }
            if let Some(key) = &settings.aws_access_key_id {
                builder = builder.with_access_key_id(key);
            }
            if let Some(secret) = &settings.aws_secret_access_key {
                builder = builder.with_secret_access_key(secret);
            }
            if let Some(token) = &settings.aws_session_token {
                builder = builder.with_token(token);
            }
            Arc::new(builder.build()?)
        }
    })
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Destination").field(&self.url).finish()
    }
}
