// Spiking network of `memprop.twin.eqspike`: one sample after the other, all steps of one in the cache. Hidden neurons are the fast axis.
#include <cstdint>
#include <vector>

namespace {

struct Layer {
    std::vector<float> synapse, membrane, fast, slow, moving, spike;
    explicit Layer(int64_t size) : synapse(size), membrane(size), fast(size), slow(size), moving(size), spike(size) {}
};

struct Numbers {
    float keep, synapse, fast, slow, scale;
};

// One step of all neurons of a layer: current in, spikes and movement out.
void advance(Layer& layer, const float* arriving, const float* fixed, const Numbers& k) {
    const int64_t size = static_cast<int64_t>(layer.spike.size());
    float *syn = layer.synapse.data(), *v = layer.membrane.data(), *f = layer.fast.data(), *g = layer.slow.data();
    float *a = layer.moving.data(), *s = layer.spike.data();
#pragma omp simd
    for (int64_t n = 0; n < size; ++n) {
        syn[n] += (arriving[n] - syn[n]) * k.synapse;
        float u = k.keep * v[n] + syn[n] + fixed[n];
        u = u < -1.0f ? -1.0f : (u > 2.0f ? 2.0f : u);
        const float one = u >= 1.0f ? 1.0f : 0.0f;
        v[n] = u - one;
        s[n] = one;
        f[n] += (one - f[n]) * k.fast;
        g[n] += (one - g[n]) * k.slow;
        a[n] = (f[n] - g[n]) * k.scale;
    }
}

}  // namespace

// weight [outputs, hidden]; drive [batch, hidden]; bias [outputs]; target [batch, outputs]; v [batch, hidden + outputs];
// nudge [batch, phases]; ends [phases]; q [batch, outputs, hidden]; moved [batch, hidden + outputs]; counts [batch, hidden + outputs].
// The last phase learns; spikes are counted from step `from` on.
extern "C" void memprop_eqspike(
    int64_t batch, int64_t hidden, int64_t outputs, int64_t phases, const int64_t* ends, int64_t from, const float* numbers,
    const float* weight, const float* drive, const float* bias, const float* target, const float* v, const float* nudge, float* q,
    float* moved, float* counts, int32_t threads) {
    const Numbers k{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
    const int64_t both = hidden + outputs;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t b = 0; b < batch; ++b) {
        Layer low(hidden), high(outputs);
        std::vector<float> down(hidden), up(outputs), fixed(outputs);
        for (int64_t h = 0; h < hidden; ++h) low.membrane[h] = v[b * both + h];
        for (int64_t o = 0; o < outputs; ++o) high.membrane[o] = v[b * both + hidden + o];
        float *mine = q + b * outputs * hidden, *sum = moved + b * both, *count = counts + b * both;
        int64_t step = 0;
        for (int64_t phase = 0; phase < phases; ++phase) {
            const float pull = nudge[b * phases + phase];
            for (; step < ends[phase]; ++step) {
                // Spikes of the step before arrive; the same weight serves both ways.
                for (int64_t h = 0; h < hidden; ++h) down[h] = 0.0f;
                for (int64_t o = 0; o < outputs; ++o) {
                    const float* row = weight + o * hidden;
                    float total = 0.0f;
#pragma omp simd reduction(+ : total)
                    for (int64_t h = 0; h < hidden; ++h) total += row[h] * low.spike[h];
                    up[o] = total;
                    fixed[o] = bias[o] + pull * (target[b * outputs + o] - high.spike[o]);
                    if (high.spike[o] != 0.0f) {
#pragma omp simd
                        for (int64_t h = 0; h < hidden; ++h) down[h] += row[h];
                    }
                }
                advance(low, down.data(), drive + b * hidden, k);
                advance(high, up.data(), fixed.data(), k);
                if (step >= from) {
                    for (int64_t h = 0; h < hidden; ++h) count[h] += low.spike[h];
                    for (int64_t o = 0; o < outputs; ++o) count[hidden + o] += high.spike[o];
                }
                if (phase + 1 < phases) continue;
                for (int64_t h = 0; h < hidden; ++h) sum[h] += low.moving[h];
                for (int64_t o = 0; o < outputs; ++o) {
                    float* row = mine + o * hidden;
                    const float a = high.moving[o], s = high.spike[o];
                    sum[hidden + o] += a;
#pragma omp simd
                    for (int64_t h = 0; h < hidden; ++h) row[h] += low.spike[h] * a + s * low.moving[h];
                }
            }
        }
    }
}
