package main

import (
	"context"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
)

// One of two candidates leads at a time; the other takes over when it steps down.
func leaders(t *talk) {
	leading := make(chan string, 2)
	candidate := func(ctx context.Context, name string) {
		lock := got(resourcelock.New(resourcelock.LeasesResourceLock, t.space, "crown", t.typed.CoreV1(), t.typed.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: name}))
		elector := got(leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 50 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leading <- name },
				OnStoppedLeading: func() {},
			},
		}))
		go elector.Run(ctx)
	}
	first, stepDown := context.WithCancel(t.ctx)
	candidate(first, "a")
	expect(<-leading == "a", "the only candidate leads")
	second, stop := context.WithCancel(t.ctx)
	defer stop()
	candidate(second, "b")
	leases := t.typed.CoordinationV1().Leases(t.space)
	renewed := got(leases.Get(t.ctx, "crown", metav1.GetOptions{})).Spec.RenewTime
	t.eventually("the leader renews its lease", func() bool {
		return got(leases.Get(t.ctx, "crown", metav1.GetOptions{})).Spec.RenewTime.After(renewed.Time)
	})
	expect(len(leading) == 0, "only one leads")
	stepDown()
	expect(<-leading == "b", "the other follows")
	lease := got(leases.Get(t.ctx, "crown", metav1.GetOptions{}))
	expect(*lease.Spec.HolderIdentity == "b" && *lease.Spec.LeaseTransitions >= 1, "%v is held by b", lease.Spec)
}

// Events by both of client-go's recorders: what is said again is counted, not written again.
func recordedEvents(t *talk) {
	about := got(t.typed.CoreV1().ConfigMaps(t.space).Create(t.ctx, configMap("subject", nil), metav1.CreateOptions{}))
	older := record.NewBroadcaster(record.WithContext(t.ctx))
	older.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: t.typed.CoreV1().Events("")})
	recorder := older.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "older"})
	listed := t.typed.CoreV1().Events(t.space)
	for said := range 3 {
		recorder.Event(about, corev1.EventTypeWarning, "Repeated", "again")
		t.eventually("the event is counted", func() bool {
			all := got(listed.List(t.ctx, metav1.ListOptions{FieldSelector: "reason=Repeated,involvedObject.uid=" + string(about.UID)}))
			return len(all.Items) == 1 && all.Items[0].Count == int32(said+1)
		})
	}
	older.Shutdown()
	found := got(listed.SearchWithContext(t.ctx, scheme.Scheme, about))
	expect(len(found.Items) == 1 && found.Items[0].Source.Component == "older", "%v are about it", found.Items)

	newer := events.NewBroadcaster(&events.EventSinkImpl{Interface: t.typed.EventsV1()})
	must(newer.StartRecordingToSinkWithContext(t.ctx))
	series := newer.NewRecorder(scheme.Scheme, "example.com/newer")
	for range 2 {
		series.Eventf(about, nil, corev1.EventTypeNormal, "Series", "Testing", "number %d", 1)
	}
	t.eventually("the event is a series", func() bool {
		all := got(t.typed.EventsV1().Events(t.space).List(t.ctx, metav1.ListOptions{FieldSelector: "reason=Series"}))
		return len(all.Items) == 1 && all.Items[0].ReportingController == "example.com/newer" && all.Items[0].Series != nil
	})
	newer.Shutdown()
	_, err := t.typed.EventsV1().Events(t.space).Create(t.ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "poor"}}, metav1.CreateOptions{})
	expect(err != nil, "an event must say what happened")
}
