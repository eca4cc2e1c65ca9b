package main

import (
	"bufio"
	"context"
	"io"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

// A deployment and its subresources: scale, status, logs, ephemeral containers, eviction and the proxies.
func workloads(t *talk) {
	deployments, pods := t.typed.AppsV1().Deployments(t.space), t.typed.CoreV1().Pods(t.space)
	web := deployment("web", "hello-http:v1", 1)
	web.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	got(deployments.Create(t.ctx, web, metav1.CreateOptions{}))
	scale := got(deployments.GetScale(t.ctx, "web", metav1.GetOptions{}))
	expect(scale.Spec.Replicas == 1 && scale.Status.Selector == "app=web", "%v is its scale", scale)
	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale := got(deployments.GetScale(t.ctx, "web", metav1.GetOptions{}))
		scale.Spec.Replicas = 2
		_, err := deployments.UpdateScale(t.ctx, "web", scale, metav1.UpdateOptions{})
		return err
	}))
	source := cache.NewListWatchFromClient(t.typed.AppsV1().RESTClient(), "deployments", t.space, nothingSelected())
	available := func(event watch.Event) (bool, error) {
		return event.Object.(*appsv1.Deployment).Status.AvailableReplicas == 2, nil
	}
	_, err := watchtools.UntilWithSync(t.ctx, source, &appsv1.Deployment{}, nil, available)
	must(err)

	listed := got(pods.List(t.ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "status.phase=Running"}))
	expect(len(listed.Items) == 2, "%d run", len(listed.Items))
	one := &listed.Items[0]
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
	services := t.typed.CoreV1().Services(t.space)
	expect(got(services.Create(t.ctx, service, metav1.CreateOptions{})).Spec.ClusterIP != "", "a service has an address")
	for name, ask := range map[string]func() ([]byte, error){
		"service": func() ([]byte, error) { return services.ProxyGet("http", "web", "http", "/", nil).DoRaw(t.ctx) },
		"pod":     func() ([]byte, error) { return pods.ProxyGet("http", one.Name, "8080", "/", nil).DoRaw(t.ctx) },
	} {
		t.eventually("the "+name+" answers through the proxy", func() bool {
			answer, err := ask()
			return err == nil && len(answer) > 0
		})
	}
	guarded(t, one.Name)

	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		held := got(pods.Get(t.ctx, one.Name, metav1.GetOptions{}))
		told := corev1.PodCondition{Type: "example.com/told", Status: corev1.ConditionTrue}
		held.Status.Conditions = append(held.Status.Conditions, told)
		_, err := pods.UpdateStatus(t.ctx, held, metav1.UpdateOptions{})
		return err
	}))
	told := got(pods.Get(t.ctx, one.Name, metav1.GetOptions{}))
	last := told.Status.Conditions[len(told.Status.Conditions)-1]
	expect(last.Type == "example.com/told", "%v was told", told.Status.Conditions)
	told.Spec.EphemeralContainers = append(told.Spec.EphemeralContainers, corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "show:v1", Args: []string{"env"}},
	})
	debugged, err := pods.UpdateEphemeralContainers(t.ctx, told.Name, told, metav1.UpdateOptions{})
	expect(err == nil && len(debugged.Spec.EphemeralContainers) == 1, "a pod is given an ephemeral container: %v", err)
	background := metav1.DeletePropagationBackground
	must(deployments.Delete(t.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &background}))
	t.eventually("its pods are collected", func() bool {
		return len(got(pods.List(t.ctx, metav1.ListOptions{LabelSelector: "app=web"})).Items) == 0
	})
	logs(t)
}

// An eviction is refused while a budget forbids it, and told to try again.
func guarded(t *talk, pod string) {
	two := intstr.FromInt32(2)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &two, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
	budgets := t.typed.PolicyV1().PodDisruptionBudgets(t.space)
	got(budgets.Create(t.ctx, budget, metav1.CreateOptions{}))
	t.eventually("the budget knows its pods", func() bool {
		held := got(budgets.Get(t.ctx, "web", metav1.GetOptions{}))
		return held.Status.ObservedGeneration == held.Generation && held.Status.CurrentHealthy == 2
	})
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod}}
	err := t.typed.CoreV1().Pods(t.space).EvictV1(t.ctx, eviction)
	expect(errors.IsTooManyRequests(err) && errors.HasStatusCause(err, policyv1.DisruptionBudgetCause), "%v names the budget", err)
	must(budgets.Delete(t.ctx, "web", metav1.DeleteOptions{}))
}

// Logs, whole and followed.
func logs(t *talk) {
	pods := t.typed.CoreV1().Pods(t.space)
	template := deployment("ticking", "show:v1", 1, "tick", "0.1").Spec.Template
	made := got(pods.Create(t.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "ticking"}, Spec: template.Spec}, metav1.CreateOptions{}))
	running(t, made.Name)
	stream := got(pods.GetLogs("ticking", &corev1.PodLogOptions{Follow: true}).Stream(t.ctx))
	lines := bufio.NewScanner(stream)
	for range 3 {
		expect(lines.Scan() && strings.HasPrefix(lines.Text(), "tick "), "%q is a line", lines.Text())
	}
	must(stream.Close())
	one := int64(1)
	tail := got(pods.GetLogs("ticking", &corev1.PodLogOptions{TailLines: &one, Timestamps: true}).Stream(t.ctx))
	text := string(got(io.ReadAll(tail)))
	expect(strings.Count(text, "\n") == 1 && strings.Contains(text, "Z tick "), "%q is one line", text)
	_, err := pods.GetLogs("ticking", &corev1.PodLogOptions{Container: "none"}).Stream(t.ctx)
	expect(errors.IsBadRequest(err), "%v is a bad request", err)
	now := int64(0)
	must(pods.Delete(t.ctx, "ticking", metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

// running waits until a pod is ready.
func running(t *talk, name string) {
	pods := t.typed.CoreV1().Pods(t.space)
	selected := metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selected.FieldSelector
			return pods.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selected.FieldSelector
			return pods.Watch(ctx, options)
		},
	}
	ready := func(event watch.Event) (bool, error) {
		for _, condition := range event.Object.(*corev1.Pod).Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	}
	_, err := watchtools.UntilWithSync(t.ctx, source, &corev1.Pod{}, nil, ready)
	must(err)
}
