package main

import (
	"context"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	status "google.golang.org/genproto/googleapis/rpc/status"
)

// watch counts what proxies answer.
type watch struct {
	mutex   sync.Mutex
	kinds   map[string]*answers
	streams int
	opened  int
	// Responses without an answer, by stream and type: the nonce.
	open map[place]string
}

type place struct {
	stream int64
	kind   string
}

type answers struct {
	Responses int      `json:"responses"`
	Acks      int      `json:"acks"`
	Nacks     int      `json:"nacks"`
	Texts     []string `json:"texts"`
}

// report is what GET /status shows.
type report struct {
	// How many streams are open, and how many were.
	Streams int `json:"streams"`
	Opened  int `json:"opened"`
	// How many types wait for an answer.
	Open  int                `json:"open"`
	Types map[string]answers `json:"types"`
}

func newWatch() *watch {
	return &watch{kinds: map[string]*answers{}, open: map[place]string{}}
}

func (w *watch) status() report {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	made := report{Streams: w.streams, Opened: w.opened, Open: len(w.open), Types: map[string]answers{}}
	for kind, counted := range w.kinds {
		made.Types[kind] = *counted
	}
	return made
}

func (w *watch) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamOpenFunc:        func(context.Context, int64, string) error { return w.opens() },
		DeltaStreamOpenFunc:   func(context.Context, int64, string) error { return w.opens() },
		StreamClosedFunc:      func(stream int64, _ *core.Node) { w.closes(stream) },
		DeltaStreamClosedFunc: func(stream int64, _ *core.Node) { w.closes(stream) },
		StreamRequestFunc: func(stream int64, r *discovery.DiscoveryRequest) error {
			return w.asks(stream, r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail())
		},
		StreamDeltaRequestFunc: func(stream int64, r *discovery.DeltaDiscoveryRequest) error {
			return w.asks(stream, r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail())
		},
		StreamResponseFunc: func(_ context.Context, stream int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
			w.answers(stream, r.GetTypeUrl(), r.GetNonce())
		},
		StreamDeltaResponseFunc: func(stream int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
			w.answers(stream, r.GetTypeUrl(), r.GetNonce())
		},
	}
}

func (w *watch) opens() error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.streams++
	w.opened++
	return nil
}

func (w *watch) closes(stream int64) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.streams--
	for at := range w.open {
		if at.stream == stream {
			delete(w.open, at)
		}
	}
}

// of is the count of a type, by the last word of its URL. The mutex is held.
func (w *watch) of(url string) *answers {
	kind := url[strings.LastIndexByte(url, '.')+1:]
	counted, ok := w.kinds[kind]
	if !ok {
		counted = &answers{Texts: []string{}}
		w.kinds[kind] = counted
	}
	return counted
}

func (w *watch) asks(stream int64, url, nonce string, detail *status.Status) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	at := place{stream, url}
	// A request that carries an older nonce, or none, changes a subscription.
	if nonce == "" || w.open[at] != nonce {
		return nil
	}
	delete(w.open, at)
	counted := w.of(url)
	if detail != nil {
		counted.Nacks++
		counted.Texts = append(counted.Texts, detail.GetMessage())
	} else {
		counted.Acks++
	}
	return nil
}

func (w *watch) answers(stream int64, url, nonce string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.open[place{stream, url}] = nonce
	w.of(url).Responses++
}
