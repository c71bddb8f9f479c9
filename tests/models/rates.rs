//! The learning rate that an update applies is the one that the evaluation before it logs, read
//! from the change of the parameters.

use popgrad::Result;
use popgrad::optim::{Optimizer, PerBlock, Rule, Schedule, Stage, Staged, UnfreezeAt};
use popgrad::train::{Moment, Objective, Observer, Plan, State, Trainer};

/// L = Σ θ, so that every gradient is 1.
struct Linear(usize);

impl Objective<f64> for Linear {
    fn len(&self) -> usize {
        self.0
    }
    fn loss_and_grad(&mut self, _step: u64, params: &[f64], grad: &mut [f64]) -> Result<f64> {
        grad.fill(1.0);
        Ok(params.iter().sum())
    }
    fn test_loss(&mut self, params: &[f64]) -> Result<f64> {
        Ok(params.iter().sum())
    }
}

/// Parameters and the logged rate at every evaluation.
#[derive(Default)]
struct Seen {
    rates: Vec<f64>,
    params: Vec<Vec<f64>>,
    middle: Option<State<f64>>,
}

impl Observer<f64> for Seen {
    fn stepped(&mut self, _step: u64, _loss: Option<f64>) -> Result<()> {
        Ok(())
    }
    fn evaluate(
        &mut self,
        at: &Moment,
        _objective: &mut dyn Objective<f64>,
        params: &[f64],
    ) -> Result<Option<f64>> {
        self.rates.push(at.lr);
        self.params.push(params.to_vec());
        // Without a test set there is no test loss.
        Ok(None)
    }
    fn checkpoint(&mut self, state: &State<f64>) -> Result<()> {
        self.middle.get_or_insert_with(|| state.clone());
        Ok(())
    }
}

const STEPS: u64 = 10;
const LR: f64 = 0.5;

fn plan(schedule: Schedule, checkpoint_every: u64) -> Plan {
    Plan { steps: STEPS, batch: 1, shards: 1, lr: LR, schedule, eval_every: 1, checkpoint_every }
}

/// The second parameter trains from update 4 on.
fn per_block(rule: &Rule) -> Box<dyn Optimizer<f64>> {
    let block = |i: usize, from| UnfreezeAt { name: format!("b{i}"), range: i..i + 1, from: Some(from) };
    Box::new(PerBlock::new(rule, 0.0, vec![block(0, 0), block(1, 4)]).unwrap())
}

/// Builds an optimiser.
type Make<'a> = dyn Fn() -> Box<dyn Optimizer<f64>> + 'a;

fn staged() -> Box<dyn Optimizer<f64>> {
    let stage = |until, i: usize, lr| Stage { until, range: i..i + 1, lr };
    Box::new(Staged::new(vec![stage(4, 0, 1.0), stage(STEPS, 1, 1.0)]).unwrap())
}

#[test]
fn the_applied_rate_is_the_logged_one() {
    let adam = Rule::AdamW { beta1: 0.9, beta2: 0.999, adam_eps: 1e-30 };
    let optimizers: [(&str, &Make<'_>); 3] = [
        ("sgd", &|| per_block(&Rule::Sgd { momentum: 0.0 })),
        // Constant gradients: both means are 1, and a step is the rate.
        ("adamw", &|| per_block(&adam)),
        ("staged", &staged),
    ];
    for (name, optimizer) in optimizers {
        for schedule in [Schedule::Constant, Schedule::Cosine] {
            let mut seen = Seen::default();
            let mut trainer = Trainer::new(Linear(2), optimizer(), plan(schedule, 3), vec![0.0; 2]).unwrap();
            trainer.run(&mut seen).unwrap();
            assert_eq!(seen.rates.len() as u64, STEPS + 1);
            for k in 0..STEPS as usize {
                let share = k as f64 / STEPS as f64;
                let expected = match schedule {
                    Schedule::Constant => LR,
                    Schedule::Cosine => 0.5 * LR * (1.0 + (std::f64::consts::PI * share).cos()),
                };
                let logged = seen.rates[k];
                assert!((logged - expected).abs() < 1e-15, "{name} {schedule:?} {k}: {logged}");
                for (i, trains) in [(0, name != "staged" || k < 4), (1, k >= 4)] {
                    let moved = seen.params[k][i] - seen.params[k + 1][i];
                    let expected = if trains { logged } else { 0.0 };
                    // Means of 10 equal numbers by recurrence, and a difference of sums up to 5.
                    assert!((moved - expected).abs() < 4e-15, "{name} {schedule:?} {k} {i}: {moved}");
                }
            }
            // A run that goes on from a checkpoint applies the same rates.
            let mut again = Seen::default();
            let mut trainer =
                Trainer::new(Linear(2), optimizer(), plan(schedule, STEPS), vec![0.0; 2]).unwrap();
            trainer.restore(seen.middle.clone().unwrap()).unwrap();
            trainer.run(&mut again).unwrap();
            assert_eq!(again.rates, seen.rates[4..]);
            assert_eq!(again.params, seen.params[4..]);
        }
    }
}
