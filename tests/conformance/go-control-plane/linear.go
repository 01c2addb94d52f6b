package main

import (
	"fmt"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"
)

// Of the versions of linear caches.
var processPrefix = fmt.Sprintf("%d-", time.Now().UnixNano())

// changed is what of now the cache does not have like that: it counts what it is given as changed.
func (l *linear) changed(kind string, now map[string]types.Resource) map[string]types.Resource {
	had := l.types[kind].GetResources()
	changed := map[string]types.Resource{}
	for name, one := range now {
		if before, ok := had[name]; !ok || !proto.Equal(before, one) {
			changed[name] = one
		}
	}
	return changed
}

// gone names what the cache has and now has not.
func (l *linear) gone(kind string, now []types.Resource) []string {
	keep := map[string]bool{}
	for _, one := range now {
		keep[cache.GetResourceName(one)] = true
	}
	var gone []string
	for name := range l.types[kind].GetResources() {
		if !keep[name] {
			gone = append(gone, name)
		}
	}
	return gone
}
