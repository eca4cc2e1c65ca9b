//! A container as the runtime is to create it: environment, mounts, ports, limits, files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use wharf_cri::{ContainerConfig, ContainerPort, ImageStatus, Mount, Protocol, Resources};
use wharf_volumes::{resources, subpath};

use crate::context::Context;
use crate::observed::IMAGE_ANNOTATION;
use crate::start::Start;
use crate::{env, names};

/// What `terminationMessagePath` is where the pod does not say.
const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// What to create; an error is what a waiting container shows.
pub async fn config(ctx: &Context, start: &Start, image: &ImageStatus) -> Result<ContainerConfig, String> {
    let (pod, container) = (&*start.pod, &start.container);
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    ctx.services.wait_synced().await;
    let services = ctx.services.env(names::namespace(pod), spec.enable_service_links.unwrap_or(true));
    let inputs = env::Inputs { pod, objects: &*ctx.objects, services, allocatable: &ctx.allocatable };
    let env = env::resolve(container, &inputs).await?;
    let expand_all = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| env.expand(text)).collect();
    let termination = prepare_dirs(ctx, start).map_err(|error| format!("make the container's directories: {error}"))?;
    let mut mounts = mounts(ctx, pod, spec, container, &env)?;
    let termination_path = container.termination_message_path.clone().filter(|path| !path.is_empty());
    mounts.push(Mount {
        container_path: termination_path.unwrap_or_else(|| DEFAULT_TERMINATION_PATH.to_owned()),
        host_path: termination.clone(),
        read_only: false,
    });
    let read_only_root =
        container.security_context.as_ref().and_then(|context| context.read_only_root_filesystem) == Some(true);
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: start.attempt,
        image_id: image.id.clone(),
        image: container.image.clone().unwrap_or_default(),
        command: expand_all(&container.command),
        args: expand_all(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        ports: container.ports.iter().flatten().filter_map(port).collect(),
        log_path: PathBuf::from(&container.name).join(format!("{}.log", start.attempt)),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        resources: limits(container.resources.as_ref())?,
        labels: container_labels(pod, container),
        annotations: [(IMAGE_ANNOTATION.to_owned(), container.image.clone().unwrap_or_default())].into(),
        termination_message: Some(termination),
        read_only_root,
        env: env.into_pairs(),
    })
}

/// The log directory and the (empty) file for last words.
fn prepare_dirs(ctx: &Context, start: &Start) -> std::io::Result<PathBuf> {
    let name = &start.container.name;
    std::fs::create_dir_all(ctx.log_dir(&start.pod).join(name))?;
    let file = ctx.termination_file(names::uid(&start.pod), name, start.attempt);
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&file, b"")?;
    Ok(file)
}

fn mounts(
    ctx: &Context,
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    env: &env::Env,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let volume = volume
            .ok_or_else(|| format!("volume \"{}\" of container \"{}\" is not defined", mount.name, container.name))?;
        let volume = wharf_volumes::build(volume, names::namespace(pod), names::uid(pod), &ctx.data_dir)
            .map_err(|error| error.to_string())?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(expand_sub_path(expression, env)?),
            _ => None,
        };
        let host_path = match sub_path {
            Some(sub_path) => subpath::resolve(volume.path(), &sub_path).map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {}",
                    mount.name,
                    container.name,
                    names::chain(&error)
                )
            })?,
            None => volume.path().to_path_buf(),
        };
        let read_only = mount.read_only.unwrap_or(false) || volume.read_only();
        mounts.push(Mount { container_path: mount.mount_path.clone(), host_path, read_only });
    }
    Ok(mounts)
}

/// Unlike in commands, an unknown name is an error here.
fn expand_sub_path(expression: &str, env: &env::Env) -> Result<String, String> {
    let missing = std::cell::Cell::new(false);
    let path = env::expand(expression, |name| {
        let value = env.get(name).map(str::to_owned);
        missing.set(missing.get() || value.is_none());
        value
    });
    if missing.get() { Err(format!("missing value for \"{expression}\" in subPathExpr")) } else { Ok(path) }
}

fn port(port: &k8s_openapi::api::core::v1::ContainerPort) -> Option<ContainerPort> {
    let number = u16::try_from(port.container_port).ok()?;
    Some(ContainerPort {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        protocol: protocol(port.protocol.as_deref())?,
    })
}

fn limits(resources: Option<&ResourceRequirements>) -> Result<Resources, String> {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let read = |list: Option<&BTreeMap<_, _>>, name: &str, read: fn(&_) -> Option<i64>| {
        let quantity = list.and_then(|list: &BTreeMap<String, _>| list.get(name));
        let value = quantity.map(|quantity| {
            read(quantity)
                .and_then(|value| u64::try_from(value).ok())
                .ok_or_else(|| format!("invalid quantity of {name}"))
        });
        value.transpose()
    };
    Ok(Resources {
        memory_limit_bytes: read(limits, "memory", resources::value)?,
        cpu_limit_millis: read(limits, "cpu", resources::milli_value)?,
        cpu_request_millis: read(requests, "cpu", resources::milli_value)?,
    })
}

/// The labels by which CRI tools find a pod's containers.
fn container_labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    [
        ("io.kubernetes.container.name", container.name.as_str()),
        ("io.kubernetes.pod.name", names::name(pod)),
        ("io.kubernetes.pod.namespace", names::namespace(pod)),
        ("io.kubernetes.pod.uid", names::uid(pod)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// None for SCTP, which no engine of ours speaks.
pub fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}
