package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// The types that are served, parents before children where it matters to a client.
var kinds = []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType}

// store holds what proxies are told, in one of the caches of go-control-plane.
type store interface {
	cache() cache.Cache
	// load replaces everything. The same state has the same versions, also in another process.
	load(ctx context.Context, state []byte) error
}

func newStore(kind string) (store, error) {
	switch kind {
	case "snapshot":
		return &snapshots{cache.NewSnapshotCache(true, anyNode{}, nil)}, nil
	case "linear":
		return newLinear(), nil
	}
	return nil, fmt.Errorf("no cache is called %q", kind)
}

func parse(body []byte) (map[string][]types.Resource, error) {
	var state State
	if err := json.Unmarshal(body, &state); err != nil {
		return nil, err
	}
	return state.resources()
}

// anyNode: all proxies are told the same.
type anyNode struct{}

const node = "any"

func (anyNode) ID(*core.Node) string { return node }

// snapshots: one version for all types, so that every change sends all of them once more.
type snapshots struct{ of cache.SnapshotCache }

func (s *snapshots) cache() cache.Cache { return s.of }

func (s *snapshots) load(ctx context.Context, body []byte) error {
	resources, err := parse(body)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	snapshot, err := cache.NewSnapshot(hex.EncodeToString(sum[:8]), resources)
	if err != nil {
		return err
	}
	if err := snapshot.Consistent(); err != nil {
		return err
	}
	return s.of.SetSnapshot(ctx, node, snapshot)
}

// linear: a cache for each type, which sends what changed and nothing else. Its versions count up
// from its start, so each process has a prefix of its own.
type linear struct {
	mux   cache.MuxCache
	types map[string]*cache.LinearCache
}

func newLinear() *linear {
	made := &linear{types: map[string]*cache.LinearCache{}}
	made.mux.Classify = func(r *cache.Request) string { return r.GetTypeUrl() }
	made.mux.ClassifyDelta = func(r *discovery.DeltaDiscoveryRequest) string { return r.GetTypeUrl() }
	made.mux.Caches = map[string]cache.Cache{}
	for _, kind := range kinds {
		one := cache.NewLinearCache(kind, cache.WithVersionPrefix(processPrefix))
		made.types[kind] = one
		made.mux.Caches[kind] = one
	}
	return made
}

func (l *linear) cache() cache.Cache { return &l.mux }

func (l *linear) load(_ context.Context, body []byte) error {
	resources, err := parse(body)
	if err != nil {
		return err
	}
	// Make before break: children that are new come before those who name them (clusters before
	// routes), and what goes away goes in the other order.
	for _, kind := range kinds {
		now := map[string]types.Resource{}
		for _, one := range resources[kind] {
			now[cache.GetResourceName(one)] = one
		}
		if err := l.types[kind].UpdateResources(l.changed(kind, now), nil); err != nil {
			return err
		}
	}
	for i := len(kinds) - 1; i >= 0; i-- {
		gone := l.gone(kinds[i], resources[kinds[i]])
		if len(gone) == 0 {
			continue
		}
		if err := l.types[kinds[i]].UpdateResources(nil, gone); err != nil {
			return err
		}
	}
	return nil
}
