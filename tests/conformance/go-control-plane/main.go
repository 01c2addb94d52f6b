// A management server made of go-control-plane, led over HTTP by the script beside this folder.
//
//	go-control-plane -xds 127.0.0.1:P -control 127.0.0.1:Q -cache snapshot|linear
//
// State is not kept: a server that was started again knows nothing until it is told. It answers
// SotW and delta alike, whichever the client opens.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

func main() {
	xds := flag.String("xds", "127.0.0.1:0", "where proxies connect")
	control := flag.String("control", "127.0.0.1:0", "where the script connects")
	kind := flag.String("cache", "snapshot", "snapshot or linear")
	flag.Parse()

	store, err := newStore(*kind)
	if err != nil {
		log.Fatal(err)
	}
	watch := newWatch()
	grpcServer := grpc.NewServer(
		// A dead proxy is noticed, and its pings are not taken for an attack.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	service := server.NewServer(context.Background(), store.cache(), watch.callbacks())
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, service)

	// The control port opens first: whoever sees it answer can tell the state before proxies ask.
	controlListener, err := net.Listen("tcp", *control)
	if err != nil {
		log.Fatal(err)
	}
	started := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /state", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
		if err == nil {
			err = store.load(r.Context(), body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case started <- struct{}{}:
		default:
		}
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(watch.status())
	})
	go func() { log.Fatal(http.Serve(controlListener, mux)) }()

	// An empty set of clusters and listeners is an instruction too; so nobody gets one by chance.
	<-started
	xdsListener, err := net.Listen("tcp", *xds)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(grpcServer.Serve(xdsListener))
}
