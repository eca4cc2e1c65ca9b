// What controllers do with client-go, with its defaults. Arguments: a kubeconfig of a cluster that has the images
// hello-http:v1 and show:v1, and the parts to run, if not all. It says "done" when everything held.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// How long anything may take on a loaded machine.
const deadline = 2 * time.Minute

const protobuf = "application/vnd.kubernetes.protobuf"

// talk is what every part of the conversation has: a namespace of its own and both kinds of typed client.
type talk struct {
	ctx    context.Context
	config *rest.Config
	// requests sees every request that a client of config sends.
	requests *ledger
	// json is a typed client as `rest.Config` makes it; typed speaks protobuf, as upstream's own controllers do.
	json, typed *kubernetes.Clientset
	space       string
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	must(err)
	config.QPS, config.Burst = 500, 500
	requests := &ledger{}
	config.Wrap(requests.wrap)
	parts := []struct {
		name string
		run  func(*talk)
	}{
		{"objects", objects},
		{"pages", pages},
		{"discovery", discoveries},
		{"watches", watches},
		{"informers", informers},
		{"metadata", metadatas},
		{"apply", applies},
		{"custom-resources", customResources},
		{"leaders", leaders},
		{"events", recordedEvents},
		{"rights", rights},
		{"workloads", workloads},
		{"streams", streams},
	}
	for _, part := range parts {
		if chosen := os.Args[2:]; len(chosen) > 0 && !slices.Contains(chosen, part.name) {
			continue
		}
		fmt.Println("-", part.name)
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		t := &talk{ctx: ctx, config: config, requests: requests, space: "go-" + part.name}
		t.json = kubernetes.NewForConfigOrDie(config)
		binary := rest.CopyConfig(config)
		binary.ContentType, binary.AcceptContentTypes = protobuf, protobuf+",application/json"
		t.typed = kubernetes.NewForConfigOrDie(binary)
		space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: t.space}}
		_, err := t.typed.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{})
		must(err)
		part.run(t)
		must(t.typed.CoreV1().Namespaces().Delete(ctx, t.space, metav1.DeleteOptions{}))
		cancel()
	}
	fmt.Println("done")
}

// must ends the program, saying where, when a call that should succeed did not.
func must(err error) {
	if err != nil {
		debug.PrintStack()
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// got is must for a call that returns something.
func got[T any](value T, err error) T {
	must(err)
	return value
}

// expect ends the program when a claim does not hold.
func expect(holds bool, claim string, arguments ...any) {
	if !holds {
		must(fmt.Errorf("it does not hold that "+claim, arguments...))
	}
}

// eventually waits until a claim holds.
func (t *talk) eventually(claim string, holds func() bool) {
	check := func(context.Context) (bool, error) { return holds(), nil }
	if err := wait.PollUntilContextCancel(t.ctx, 20*time.Millisecond, true, check); err != nil {
		must(fmt.Errorf("it never held that %s: %w", claim, err))
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"made-by": "go"}}, Data: data}
}

// copied is a deep copy with its type.
func copied[T runtime.Object](object T) T {
	return object.DeepCopyObject().(T)
}
