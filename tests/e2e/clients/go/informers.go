package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	kubeinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// Watches see each event once and in order, from where they are told to, with or without what is there already.
func watches(t *talk) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	start := got(maps.List(t.ctx, metav1.ListOptions{})).ResourceVersion
	made := got(maps.Create(t.ctx, configMap("seen", nil), metav1.CreateOptions{}))
	made.Data = map[string]string{"a": "1"}
	made = got(maps.Update(t.ctx, made, metav1.UpdateOptions{}))
	options := metav1.ListOptions{LabelSelector: "made-by=go", ResourceVersion: start}
	watcher := got(maps.Watch(t.ctx, options))
	made.Labels = nil
	made = got(maps.Update(t.ctx, made, metav1.UpdateOptions{}))
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		event := <-watcher.ResultChan()
		expect(event.Type == want && event.Object.(*corev1.ConfigMap).Name == "seen", "%v is %v", event, want)
	}
	watcher.Stop()

	initial := true
	options = metav1.ListOptions{
		SendInitialEvents: &initial, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}
	watcher = got(maps.Watch(t.ctx, options))
	for event := range watcher.ResultChan() {
		object := event.Object.(*corev1.ConfigMap)
		if event.Type == watch.Bookmark {
			expect(object.Annotations[metav1.InitialEventsAnnotationKey] == "true", "%v ends what was there", object)
			break
		}
		expect(event.Type == watch.Added, "%v is what was there", event)
	}
	watcher.Stop()

	_, err := maps.Watch(t.ctx, metav1.ListOptions{SendInitialEvents: &initial})
	expect(errors.IsInvalid(err), "%v is Invalid", err)
	brief := int64(1)
	watcher = got(maps.Watch(t.ctx, metav1.ListOptions{TimeoutSeconds: &brief, ResourceVersion: made.ResourceVersion}))
	_, open := <-watcher.ResultChan()
	expect(!open, "a watch ends when its time is over")
	resumed(t, made.ResourceVersion)
}

// A watch that the server ends again and again loses nothing.
func resumed(t *talk, start string) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	brief := int64(1)
	source := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		options.TimeoutSeconds = &brief
		return maps.Watch(ctx, options)
	}}
	watcher := got(watchtools.NewRetryWatcherWithContext(t.ctx, start, source))
	defer watcher.Stop()
	before := len(t.requests.about("GET", t.space+"/configmaps", "watch=true"))
	for number := range 4 {
		t.eventually("the watch began anew", func() bool {
			return len(t.requests.about("GET", t.space+"/configmaps", "watch=true")) >= before+number
		})
		got(maps.Create(t.ctx, configMap(fmt.Sprintf("resumed-%d", number), nil), metav1.CreateOptions{}))
		event := <-watcher.ResultChan()
		name := event.Object.(*corev1.ConfigMap).Name
		expect(event.Type == watch.Added && name == fmt.Sprintf("resumed-%d", number), "%v is number %d", event, number)
	}
}

// Shared informers, which ask for a stream of what is there and never list.
func informers(t *talk) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	got(maps.Create(t.ctx, configMap("before", nil), metav1.CreateOptions{}))
	factory := kubeinformers.NewSharedInformerFactoryWithOptions(t.typed, 0, kubeinformers.WithNamespace(t.space))
	informer, lister := factory.Core().V1().ConfigMaps().Informer(), factory.Core().V1().ConfigMaps().Lister()
	secrets := factory.Core().V1().Secrets().Informer()
	var mutex sync.Mutex
	seen := map[string]int{}
	count := func(what string, object any) {
		mutex.Lock()
		defer mutex.Unlock()
		if key := got(cache.DeletionHandlingMetaNamespaceKeyFunc(object)); strings.HasPrefix(key, t.space+"/informed") {
			seen[what]++
		}
	}
	handle := got(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { count("add", object) },
		UpdateFunc: func(_, object any) { count("update", object) },
		DeleteFunc: func(object any) { count("delete", object) },
	}))
	ctx, cancel := context.WithCancel(t.ctx)
	factory.StartWithContext(ctx)
	expect(cache.WaitForCacheSync(ctx.Done(), handle.HasSynced, secrets.HasSynced), "the caches sync")
	got(lister.ConfigMaps(t.space).Get("before"))
	const count5 = 5
	for number := range count5 {
		made := got(maps.Create(t.ctx, configMap(fmt.Sprintf("informed-%d", number), nil), metav1.CreateOptions{}))
		made.Data = map[string]string{"a": "1"}
		got(maps.Update(t.ctx, made, metav1.UpdateOptions{}))
	}
	t.eventually("the lister has what was written", func() bool {
		listed := got(lister.List(labels.SelectorFromSet(labels.Set{"made-by": "go"})))
		return len(listed) == count5+1 && informer.LastSyncResourceVersion() != ""
	})
	must(maps.DeleteCollection(t.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "made-by=go"}))
	t.eventually("handlers were told of everything", func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		return seen["add"] == count5 && seen["delete"] == count5 && seen["update"] <= count5
	})
	cancel()
	factory.Shutdown()
	streamed := t.requests.about("GET", t.space+"/configmaps?", "sendInitialEvents=true", protobuf+";stream=watch")
	expect(len(streamed) > 0, "informers are streamed to in protobuf")
	lists := t.requests.about("GET", t.space+"/secrets")
	expect(len(lists) > 0, "secrets were asked for")
	for _, line := range lists {
		consistency := strings.Contains(line, "resourceVersionMatch=Exact")
		expect(strings.Contains(line, "watch=true") || consistency, "%q is no list", line)
	}
}
