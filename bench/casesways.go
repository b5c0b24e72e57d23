package main

import (
	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// ways are the ways of forwarding, in turn over the same connections: their real's
// is edited before each chunk. Direct routing is there twice: what the two differ
// by is noise.
func ways(flows int, name string, chunk int) []group {
	if flows == 1 {
		chunk *= 4
	}
	data := uniform(tcpFrame(ack), flows)
	data.by = regenerate
	replies := data.toVIP(firstReal)
	replies.by = reply
	over := func(id, what string, way lb.Real, t traffic, verdict bpf.Verdict) lane {
		state := with(services(1, 1), by(way))
		return lane{
			name: id + "/" + name + "_ways", what: what + ", " + name + " flows", prog: lvx, traffic: t, packets: chunk, verdict: verdict,
			before: func(r *rig) error { return r.apply(state) },
		}
	}
	return []group{{
		name: "ways of forwarding, " + name + " flows", state: services(1, 1),
		prepare: func(r *rig) error {
			_ = r.forget()
			if err := r.fillFloor(data, flows); err != nil {
				return err
			}
			return r.establish(data, flows)
		},
		lanes: []lane{
			{name: "floor_b/" + name + "_ways", what: "floor B, " + name + " flows, beside the ways", prog: floorB, traffic: data, packets: chunk},
			over("dr", "direct routing", lb.Real{}, data, forwarded),
			over("ipip", "IPIP", lb.Real{Forward: lb.Tunnel}, data, forwarded),
			over("gue", "GUE", lb.Real{Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: lb.GUEPort}}, data, forwarded),
			over("nat_in", "NAT, from the client", lb.Real{Forward: lb.NAT}, data, forwarded),
			over("nat_out", "NAT, from the real", lb.Real{Forward: lb.NAT}, replies, bpf.Replied),
			over("dr_again", "direct routing once more", lb.Real{}, data, forwarded),
		},
	}}
}

// by has the first service's reals reached as another one is.
func by(way lb.Real) func(*lb.Service) {
	return func(svc *lb.Service) {
		for i := range svc.Reals {
			svc.Reals[i].Forward, svc.Reals[i].Encap = way.Forward, way.Encap
		}
	}
}
