"""Field names of KubeRay's ``ray.io/v1`` and of the pods in it.

From ray-operator/apis/ray/v1 of KubeRay 1.6 and from Kubernetes' core/v1 in 2025. What lies below a field
that is None here is not looked at.
"""

from __future__ import annotations

from orchestrator.cluster.findings import Fields


def _anything(names: str) -> dict[str, Fields | None]:
    return dict.fromkeys(names.split())


_RESOURCES: Fields = _anything("limits requests claims")
_ENV: Fields = {
    "name": None,
    "value": None,
    "valueFrom": _anything("configMapKeyRef fieldRef resourceFieldRef secretKeyRef fileKeyRef"),
}
_ENV_FROM: Fields = _anything("configMapRef prefix secretRef")
_MOUNT: Fields = _anything("mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr")
_CONTAINER: Fields = {
    **_anything(
        "args command image imagePullPolicy lifecycle livenessProbe name readinessProbe resizePolicy "
        "restartPolicy "
        "restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath "
        "terminationMessagePolicy tty volumeDevices workingDir"
    ),
    "env": _ENV,
    "envFrom": _ENV_FROM,
    "ports": _anything("containerPort hostIP hostPort name protocol"),
    "resources": _RESOURCES,
    "volumeMounts": _MOUNT,
}
_POD: Fields = {
    **_anything(
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks "
        "ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride "
        "imagePullSecrets nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName "
        "readinessGates resourceClaims resources restartPolicy runtimeClassName schedulerName "
        "schedulingGates "
        "securityContext serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain "
        "terminationGracePeriodSeconds topologySpreadConstraints volumes"
    ),
    "containers": _CONTAINER,
    "initContainers": _CONTAINER,
    "tolerations": _anything("effect key operator tolerationSeconds value"),
}
_METADATA: Fields = _anything("annotations finalizers generateName labels name namespace ownerReferences")
_TEMPLATE: Fields = {"metadata": _METADATA, "spec": _POD}
_CLUSTER: Fields = {
    **_anything(
        "gcsFaultToleranceOptions headServiceAnnotations historyServerOptions managedBy networkPolicy "
        "rayVersion "
        "suspend tlsOptions upgradeStrategy enableInTreeAutoscaling"
    ),
    "authOptions": _anything("enableK8sTokenAuth mode secretName"),
    "autoscalerOptions": {
        **_anything("idleTimeoutSeconds image imagePullPolicy securityContext upscalingMode version"),
        "env": _ENV,
        "envFrom": _ENV_FROM,
        "resources": _RESOURCES,
        "volumeMounts": _MOUNT,
    },
    "headGroupSpec": {
        **_anything("enableIngress headService labels rayStartParams resources serviceType"),
        "template": _TEMPLATE,
    },
    "workerGroupSpecs": {
        **_anything(
            "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts priority rayStartParams "
            "replicas resources scaleStrategy suspend"
        ),
        "template": _TEMPLATE,
    },
}
_JOB: Fields = {
    **_anything(
        "activeDeadlineSeconds backoffLimit clusterSelector deletionPolicy deletionStrategy entrypoint "
        "entrypointNumCpus entrypointNumGpus entrypointResources jobId managedBy metadata "
        "preRunningDeadlineSeconds "
        "runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig suspend "
        "ttlSecondsAfterFinished"
    ),
    "rayClusterSpec": _CLUSTER,
    "submitterPodTemplate": _TEMPLATE,
}
KINDS: dict[str, Fields] = {
    kind: {"apiVersion": None, "kind": None, "metadata": _METADATA, "spec": spec}
    for kind, spec in (("RayCluster", _CLUSTER), ("RayJob", _JOB))
}
