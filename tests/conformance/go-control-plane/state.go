package main

import (
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// State is what the script sends: applications with their clusters, and where traffic comes in.
type State struct {
	Listeners []Listener `json:"listeners"`
	Clusters  []Cluster  `json:"clusters"`
	// Of every listener.
	Routes []Route `json:"routes"`
}

// Listener takes HTTP on loopback and follows the route configuration "front".
type Listener struct {
	Name string `json:"name"`
	Port uint32 `json:"port"`
}

// Cluster has its endpoints on loopback, from a load assignment of its own.
type Cluster struct {
	Name  string   `json:"name"`
	Ports []uint32 `json:"ports"`
	// Changes the cluster itself and not its endpoints.
	ConnectTimeoutMs int64 `json:"connect_timeout_ms"`
}

// Route sends a prefix to a cluster.
type Route struct {
	Prefix  string `json:"prefix"`
	Cluster string `json:"cluster"`
}

const routeName = "front"

func (s *State) resources() (map[string][]types.Resource, error) {
	all := map[string][]types.Resource{}
	for _, kind := range kinds {
		all[kind] = nil
	}
	add := func(kind string, one types.Resource) { all[kind] = append(all[kind], one) }
	for _, c := range s.Clusters {
		add(resource.ClusterType, c.cluster())
		add(resource.EndpointType, c.assignment())
	}
	for _, l := range s.Listeners {
		one, err := l.listener()
		if err != nil {
			return nil, err
		}
		add(resource.ListenerType, one)
	}
	if len(s.Listeners) > 0 {
		add(resource.RouteType, s.routes())
	}
	return all, nil
}

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

func address(port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address:       "127.0.0.1",
		PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

func (c *Cluster) cluster() *cluster.Cluster {
	timeout := time.Duration(max(c.ConnectTimeoutMs, 1000)) * time.Millisecond
	return &cluster.Cluster{
		Name:                 c.Name,
		ConnectTimeout:       durationpb.New(timeout),
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}
}

func (c *Cluster) assignment() *endpoint.ClusterLoadAssignment {
	group := &endpoint.LocalityLbEndpoints{}
	for _, port := range c.Ports {
		group.LbEndpoints = append(group.LbEndpoints, &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address(port)}},
		})
	}
	return &endpoint.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: []*endpoint.LocalityLbEndpoints{group}}
}

func (s *State) routes() *route.RouteConfiguration {
	host := &route.VirtualHost{Name: "all", Domains: []string{"*"}}
	for _, r := range s.Routes {
		host.Routes = append(host.Routes, &route.Route{
			Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: r.Prefix}},
			Action: &route.Route_Route{Route: &route.RouteAction{
				ClusterSpecifier: &route.RouteAction_Cluster{Cluster: r.Cluster},
			}},
		})
	}
	return &route.RouteConfiguration{Name: routeName, VirtualHosts: []*route.VirtualHost{host}}
}

func (l *Listener) listener() (*listener.Listener, error) {
	forward, err := packed(&router.Router{})
	if err != nil {
		return nil, err
	}
	manager, err := packed(&hcm.HttpConnectionManager{
		StatPrefix: l.Name,
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{
			ConfigSource: ads(), RouteConfigName: routeName,
		}},
		HttpFilters: []*hcm.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: forward},
		}},
	})
	if err != nil {
		return nil, err
	}
	return &listener.Listener{
		Name:    l.Name,
		Address: address(l.Port),
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listener.Filter_TypedConfig{TypedConfig: manager},
		}}}},
	}, nil
}

// packed is the same bytes for the same message, so that equal states have equal resources.
func packed(message proto.Message) (*anypb.Any, error) {
	made := &anypb.Any{}
	err := anypb.MarshalFrom(made, message, proto.MarshalOptions{Deterministic: true})
	return made, err
}
