package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	selection "k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func nothingSelected() selection.Selector {
	return selection.Everything()
}

// exec and port-forward, over websockets and over SPDY.
func streams(t *talk) {
	pods := t.typed.CoreV1().Pods(t.space)
	show := deployment("show", "show:v1", 1, "tick", "1").Spec.Template.Spec
	got(pods.Create(t.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "show"}, Spec: show}, metav1.CreateOptions{}))
	web := deployment("web", "hello-http:v1", 1).Spec.Template.Spec
	web.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
	got(pods.Create(t.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: web}, metav1.CreateOptions{}))
	running(t, "show")
	running(t, "web")

	for name, executor := range map[string]func(*url.URL) (remotecommand.Executor, error){
		"websocket": func(at *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(t.config, "GET", at.String())
		},
		"spdy": func(at *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(t.config, "POST", at)
		},
		"fallback": func(at *url.URL) (remotecommand.Executor, error) {
			first := got(remotecommand.NewWebSocketExecutor(t.config, "GET", at.String()))
			second := got(remotecommand.NewSPDYExecutor(t.config, "POST", at))
			return remotecommand.NewFallbackExecutor(first, second, httpstream.IsUpgradeFailure)
		},
	} {
		run := func(words ...string) (string, string, error) {
			at := t.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.space).Name("show").SubResource("exec").
				VersionedParams(&corev1.PodExecOptions{Command: words, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
			var stdout, stderr bytes.Buffer
			err := got(executor(at)).StreamWithContext(t.ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
			return stdout.String(), stderr.String(), err
		}
		said, _, err := run("show", "args", "over", name)
		expect(err == nil && said == "over|"+name+"\n", "%q was said over %s: %v", said, name, err)
		_, complained, err := run("show", "nonsense")
		code, exited := err.(exec.ExitError)
		expect(exited && code.ExitStatus() == 1 && strings.Contains(complained, "do not know"), "%v is an exit over %s: %q", err, name, complained)
	}

	at := t.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.space).Name("web").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(t.config)
	must(err)
	dialers := map[string]httpstream.Dialer{
		"spdy":      spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", at),
		"websocket": got(portforward.NewSPDYOverWebsocketDialer(at, t.config)),
	}
	dialers["fallback"] = portforward.NewFallbackDialer(dialers["websocket"], dialers["spdy"], httpstream.IsUpgradeFailure)
	for name, dialer := range dialers {
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder := got(portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard))
		ended := make(chan error, 1)
		go func() { ended <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-ended:
			must(err)
		}
		port := got(forwarder.GetPorts())[0].Local
		for range 3 {
			answer := got(http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port)))
			body := got(io.ReadAll(answer.Body))
			must(answer.Body.Close())
			expect(answer.StatusCode == http.StatusOK && len(body) > 0, "%v came over %s", answer, name)
		}
		close(stop)
		must(<-ended)
	}
}
