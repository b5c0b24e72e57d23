package lb

import (
	"net/netip"
	"time"
)

// RatePeriod is how often an [Estimator] must be fed for its rates to mean
// "per second", as the kernel does it.
const RatePeriod = 2 * time.Second

// Rates are what ipvsadm --rate shows, per second.
type Rates struct {
	CPS    uint64 // connections
	InPPS  uint64 // packets from clients
	OutPPS uint64 // packets to clients; 0 for direct routing
	InBPS  uint64 // bytes (not bits) from clients
	OutBPS uint64 // bytes to clients; 0 for direct routing
}

// Estimator is the kernel's rate estimator (ip_vs_est.c): every two seconds a
// quarter of the difference between the present rate and the average goes into
// the average. It counts in the kernel's fixed point, so that the same
// traffic shows the same numbers.
//
// The zero value is the estimator of a service that has just been created: all
// that the first [Estimator.Feed] brings happened since then. For counters
// that have a past, begin with [NewEstimator].
type Estimator struct {
	last                              Counters
	cps, inpps, outpps, inbps, outbps ewma
}

// NewEstimator returns an estimator for counters that stand at c already:
// what they count so far is not a rate.
func NewEstimator(c Counters) Estimator { return Estimator{last: c} }

// Feed takes the counters of now. Call it once every [RatePeriod]. A counter
// below its last value was reset and counts from 0.
func (e *Estimator) Feed(c Counters) {
	e.cps.add(since(e.last.Conns, c.Conns), packetScale)
	e.inpps.add(since(e.last.InPkts, c.InPkts), packetScale)
	e.outpps.add(since(e.last.OutPkts, c.OutPkts), packetScale)
	e.inbps.add(since(e.last.InBytes, c.InBytes), byteScale)
	e.outbps.add(since(e.last.OutBytes, c.OutBytes), byteScale)
	e.last = c
}

// Rates reads the averages (ip_vs_read_estimator).
func (e *Estimator) Rates() Rates {
	return Rates{
		CPS:    e.cps.read(packetScale),
		InPPS:  e.inpps.read(packetScale),
		OutPPS: e.outpps.read(packetScale),
		InBPS:  e.inbps.read(byteScale),
		OutBPS: e.outbps.read(byteScale),
	}
}

// The binary digits after the point of an average.
const (
	packetScale = 10
	byteScale   = 5
)

// ewma is an exponentially weighted moving average in fixed point.
type ewma int64

// add counts n events in one period of two seconds, hence scale-1. The shift
// of a negative difference rounds down, which lets an average reach 0.
func (a *ewma) add(n uint64, scale int) {
	rate := ewma(n << (scale - 1))
	*a += (rate - *a) >> 2
}

// read rounds to a whole number, a half down.
func (a ewma) read(scale int) uint64 { return uint64(a+1<<(scale-1)-1) >> scale }

func since(last, now uint64) uint64 {
	if now < last {
		return now
	}
	return now - last
}

// RealRates are the rates of one real of one service.
type RealRates struct {
	Addr netip.Addr
	Port uint16
	Rates
}

// ServiceRates are the rates of one service and its reals.
type ServiceRates struct {
	Name string
	Rates
	Reals []RealRates
}

// Meter keeps an [Estimator] for every service and real that it is fed.
// Whatever is there at the first Feed has a past; what comes later is new. It
// is not safe for concurrent use.
type Meter struct {
	fed      bool
	services map[string]*Estimator
	reals    map[meterKey]*Estimator
	latest   []ServiceStats
}

type meterKey struct {
	service string
	real    netip.AddrPort
}

// Feed takes the counters of now. Call it once every [RatePeriod]. Services
// and reals that are gone are forgotten.
func (m *Meter) Feed(s Stats) {
	services := make(map[string]*Estimator, len(s.Services))
	reals := make(map[meterKey]*Estimator, len(m.reals))
	for _, v := range s.Services {
		services[v.Name] = m.feed(m.services[v.Name], v.Counters)
		for _, r := range v.Reals {
			k := meterKey{v.Name, netip.AddrPortFrom(r.Addr, r.Port)}
			reals[k] = m.feed(m.reals[k], r.Counters)
		}
	}
	m.services, m.reals, m.latest, m.fed = services, reals, s.Services, true
}

func (m *Meter) feed(e *Estimator, c Counters) *Estimator {
	if e == nil {
		e = new(Estimator)
		if !m.fed {
			*e = NewEstimator(c)
		}
	}
	e.Feed(c)
	return e
}

// Rates reads the rates of every service and real, in the order of the
// counters fed last.
func (m *Meter) Rates() []ServiceRates {
	var all []ServiceRates
	for _, v := range m.latest {
		s := ServiceRates{Name: v.Name, Rates: m.services[v.Name].Rates()}
		for _, r := range v.Reals {
			k := meterKey{v.Name, netip.AddrPortFrom(r.Addr, r.Port)}
			s.Reals = append(s.Reals, RealRates{Addr: r.Addr, Port: r.Port, Rates: m.reals[k].Rates()})
		}
		all = append(all, s)
	}
	return all
}
