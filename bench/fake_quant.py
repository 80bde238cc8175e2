"""CPU time of fake quantisation beside a training step without it, one thread, alternating."""
import time, torch
from statistics import median
from bulletlm.model import Llama
from bulletlm.shape import ModelShape
from bulletlm.quant.fake_quant import FakeQuant
from bulletlm.quant.types import weight_types
from bulletlm.train.optimizer import build_optimizers
from bulletlm.config import TrainConfig
torch.set_num_threads(1)
for shape,sequences in ((ModelShape(4000,256,8,4,4,1024,128),16),(ModelShape(2000,128,4,4,4,512,128),16)):
    m=Llama(shape); m.initialise(1); f=FakeQuant(m,weight_types(shape)); o=build_optimizers(m,TrainConfig())
    x=torch.randint(0,shape.vocab_size,(sequences,128)); y=torch.randint(0,shape.vocab_size,(sequences,128))
    steps,costs=[],[]
    for i in range(5):
        t=time.process_time(); (m.loss(x,y)/y.numel()).backward(); torch.nn.utils.clip_grad_norm_(m.parameters(),1.0,foreach=True)
        for k in o: k.step(); k.zero_grad(set_to_none=False)
        steps.append(time.process_time()-t)
        t=time.process_time()
        with f.applied(): pass
        costs.append(time.process_time()-t)
    print(shape.n_parameters,sequences*128,"tokens: step",round(median(steps),3),"s, fake-quant",round(median(costs)*1e3,1),"ms =",f"{median(costs)/median(steps):.2%}",flush=True)
