package bgp

import (
	"context"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// Names of what GoBGP is told of routes.
const (
	ownRoutes      = "only our own"
	drainedRoutes  = "routes to avoid, to another AS"
	drainedMarks   = "marks of a drain"
	routersOfOurAS = "routers of our AS"
)

// setRules makes the speaker learn nothing: of all routes only its own pass. To a
// router of another AS a route to avoid has the longer AS path; one of our AS
// would take it for a loop (RFC 4271 section 9.1.2), and goes by LOCAL_PREF.
func setRules(ctx context.Context, srv *server.BgpServer, c Config) error {
	own := &api.Statement{
		Name:       ownRoutes,
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}
	drained, err := drainedStatement(ctx, srv, c)
	if err != nil {
		return err
	}
	for _, st := range []*api.Statement{own, drained} {
		if err := srv.AddStatement(ctx, &api.AddStatementRequest{Statement: st}); err != nil {
			return err
		}
	}
	for direction, statements := range map[api.PolicyDirection][]*api.Statement{
		api.PolicyDirection_POLICY_DIRECTION_IMPORT: {own},
		api.PolicyDirection_POLICY_DIRECTION_EXPORT: {drained, own},
	} {
		policy := &api.Policy{Name: direction.String(), Statements: statements}
		if err := srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy, ReferExistingStatements: true}); err != nil {
			return err
		}
		if err := srv.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: direction, Policies: []*api.Policy{{Name: policy.Name}},
			DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
		}}); err != nil {
			return err
		}
	}
	return nil
}

// drainedStatement makes the AS path of a drained route longer for routers of
// other ASes.
func drainedStatement(ctx context.Context, srv *server.BgpServer, c Config) (*api.Statement, error) {
	sets := []*api.DefinedSet{{
		DefinedType: api.DefinedType_DEFINED_TYPE_COMMUNITY, Name: drainedMarks, List: []string{"^65535:0$"},
	}}
	conditions := &api.Conditions{
		RouteType:    api.Conditions_ROUTE_TYPE_LOCAL,
		CommunitySet: &api.MatchSet{Name: drainedMarks, Type: api.MatchSet_TYPE_ANY},
	}
	var same []string
	for _, p := range c.Peers {
		if p.ASN == c.ASN {
			same = append(same, netip.PrefixFrom(p.Address.WithZone(""), p.Address.BitLen()).String())
		}
	}
	if len(same) > 0 {
		sets = append(sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: routersOfOurAS, List: same})
		conditions.NeighborSet = &api.MatchSet{Name: routersOfOurAS, Type: api.MatchSet_TYPE_INVERT}
	}
	for _, s := range sets {
		if err := srv.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: s}); err != nil {
			return nil, err
		}
	}
	return &api.Statement{
		Name: drainedRoutes, Conditions: conditions,
		Actions: &api.Actions{
			RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
			AsPrepend:   &api.AsPrependAction{Asn: c.ASN, Repeat: 1},
		},
	}, nil
}
